// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel threads that call file systems. One issues what does not wait, in
 * batches: a bio costs it no wake-up while it is awake. The others take what
 * may: several, so that one blocked call stops nobody, and threads rather than
 * a WQ_MEM_RECLAIM workqueue, because XFS flushes a workqueue of its own that
 * is not one when it is out of space.
 */
#include <linux/blkdev.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <uapi/linux/sched/types.h>

#include "ubd.h"

void ubd_worker_init(struct ubd_worker *worker)
{
	init_llist_head(&worker->quick);
	spin_lock_init(&worker->lock);
	INIT_LIST_HEAD(&worker->reads);
	INIT_LIST_HEAD(&worker->writes);
	init_waitqueue_head(&worker->wait);
}

/*
 * Is there work for one more thread? Writes and flushes may wait as long as a
 * frozen file system is; one thread is kept for the reads.
 */
static bool ubd_worker_has_work(struct ubd_worker *worker)
{
	return !list_empty_careful(&worker->reads) ||
	       (!list_empty_careful(&worker->writes) &&
		READ_ONCE(worker->writing) < UBD_WAITERS - 1);
}

/* Run one piece of work; false if there was none. */
static bool ubd_worker_run(struct ubd_worker *worker)
{
	struct ubd_work *work;
	bool read = true;

	spin_lock_irq(&worker->lock);
	work = list_first_entry_or_null(&worker->reads, struct ubd_work, node);
	if (!work && worker->writing < UBD_WAITERS - 1) {
		work = list_first_entry_or_null(&worker->writes,
						struct ubd_work, node);
		read = false;
	}
	if (work) {
		list_del(&work->node);
		worker->writing += !read;
	}
	spin_unlock_irq(&worker->lock);
	if (!work)
		return false;

	work->fn(work);
	if (!read) {
		spin_lock_irq(&worker->lock);
		worker->writing--;
		spin_unlock_irq(&worker->lock);
	}
	return true;
}

/* As loop: I/O for others must not wait for dirty pages of others. */
#define UBD_WORKER_FLAGS	(PF_LOCAL_THROTTLE | PF_MEMALLOC_NOIO)

/*
 * Who wakes the issuer is preempted by it, at once: best for somebody who waits
 * for that one bio, dear for somebody who is about to submit fifteen more. A
 * patient issuer (SCHED_BATCH) preempts nobody and finds them all. It is patient
 * as long as that pays, and tries again now and then.
 */
#define UBD_SINGLES	8	/* batches of one before it gives up */
#define UBD_PROMPT	2048	/* batches before it tries again */

struct ubd_patience {
	bool prompt;
	unsigned int batches;	/* since it changed; of one, when patient */
};

static void ubd_set_patience(struct ubd_patience *p, bool prompt)
{
	const struct sched_attr attr = {
		.size		= sizeof(attr),
		.sched_policy	= prompt ? SCHED_NORMAL : SCHED_BATCH,
	};

	p->prompt = prompt;
	p->batches = 0;
	sched_setattr_nocheck(current, &attr);
}

static void ubd_learn(struct ubd_patience *p, bool single)
{
	if (!p->prompt && !single)
		p->batches = 0;
	else if (++p->batches >= (p->prompt ? UBD_PROMPT : UBD_SINGLES))
		ubd_set_patience(p, !p->prompt);
}

/* In the order of their submission; the disks below get them together. */
static void ubd_issue_batch(struct llist_node *batch)
{
	struct ubd_work *work, *next;
	struct blk_plug plug;

	blk_start_plug(&plug);
	llist_for_each_entry_safe(work, next, llist_reverse_order(batch), quick)
		work->fn(work);
	blk_finish_plug(&plug);
}

static int ubd_issuer_fn(void *data)
{
	struct ubd_worker *worker = data;
	struct ubd_patience patience;
	struct llist_node *batch;
	struct ubd_work *work;
	bool single;

	current->flags |= UBD_WORKER_FLAGS;
	ubd_set_patience(&patience, false);
	for (;;) {
		/* Before the list is looked at: who adds to it wakes us. */
		set_current_state(TASK_IDLE);
		batch = llist_del_all(&worker->quick);
		if (!batch) {
			if (kthread_should_stop())
				break;
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		single = !batch->next;
		if (single) {
			work = llist_entry(batch, struct ubd_work, quick);
			work->fn(work);
		} else {
			ubd_issue_batch(batch);
		}
		ubd_learn(&patience, single);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static int ubd_waiter_fn(void *data)
{
	struct ubd_worker *worker = data;

	current->flags |= UBD_WORKER_FLAGS;
	while (!kthread_should_stop()) {
		wait_event_idle_exclusive(worker->wait,
					  ubd_worker_has_work(worker) ||
					  kthread_should_stop());
		while (ubd_worker_run(worker))
			;
	}
	return 0;
}

/*
 * What does not wait: in batches, by one thread. If that is to preempt us, then
 * here: who has come from io_uring finds the end of this bio on its way back,
 * and need not come again to ask for it. Process context, and nothing is held.
 */
void ubd_worker_quick(struct ubd_worker *worker, struct ubd_work *work)
{
	if (!llist_add(&work->quick, &worker->quick))
		return;
	wake_up_process(worker->issuer);
	cond_resched();
}

/* Callable from interrupts. */
void ubd_worker_queue(struct ubd_worker *worker, struct ubd_work *work,
		      enum ubd_work_kind kind)
{
	unsigned long flags;

	spin_lock_irqsave(&worker->lock, flags);
	list_add_tail(&work->node, kind == UBD_READ ? &worker->reads :
						      &worker->writes);
	/* Inside: once the work is done the worker may be gone. */
	wake_up(&worker->wait);
	spin_unlock_irqrestore(&worker->lock, flags);
}

static int ubd_worker_spawn(struct ubd_device *ub, int (*fn)(void *data),
			    struct task_struct **thread, int nr)
{
	struct task_struct *task;

	if (*thread)
		return 0;
	task = kthread_run(fn, &ub->worker, "ubd%d/%d", ub->id, nr);
	if (IS_ERR(task))
		return PTR_ERR(task);
	*thread = task;
	return 0;
}

/* With the first file slot; under ub->mutex. */
int ubd_worker_start(struct ubd_device *ub)
{
	struct ubd_worker *worker = &ub->worker;
	int i, ret;

	ret = ubd_worker_spawn(ub, ubd_issuer_fn, &worker->issuer, 0);
	for (i = 0; i < UBD_WAITERS && !ret; i++)
		ret = ubd_worker_spawn(ub, ubd_waiter_fn, &worker->waiter[i],
				       i + 1);
	return ret;
}

/* No bio is in flight any more, hence no work. */
void ubd_worker_stop(struct ubd_device *ub)
{
	struct ubd_worker *worker = &ub->worker;
	int i;

	if (worker->issuer)
		kthread_stop(worker->issuer);
	for (i = 0; i < UBD_WAITERS; i++)
		if (worker->waiter[i])
			kthread_stop(worker->waiter[i]);
	WARN_ON_ONCE(ubd_worker_has_work(worker) ||
		     !llist_empty(&worker->quick));
}
