// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel threads that call file systems: several, so that one blocked call
 * stops nobody, and threads rather than a WQ_MEM_RECLAIM workqueue, because
 * XFS flushes a workqueue of its own that is not one when it is out of space.
 */
#include <linux/kthread.h>
#include <linux/sched.h>

#include "ubd.h"

void ubd_worker_init(struct ubd_worker *worker)
{
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
		READ_ONCE(worker->writing) < UBD_WORKERS - 1);
}

/* Run one piece of work; false if there was none. */
static bool ubd_worker_run(struct ubd_worker *worker)
{
	struct ubd_work *work;
	bool read = true;

	spin_lock_irq(&worker->lock);
	work = list_first_entry_or_null(&worker->reads, struct ubd_work, node);
	if (!work && worker->writing < UBD_WORKERS - 1) {
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

static int ubd_worker_fn(void *data)
{
	struct ubd_worker *worker = data;

	/* As loop: I/O for others must not wait for dirty pages of others. */
	current->flags |= PF_LOCAL_THROTTLE | PF_MEMALLOC_NOIO;
	while (!kthread_should_stop()) {
		wait_event_idle_exclusive(worker->wait,
					  ubd_worker_has_work(worker) ||
					  kthread_should_stop());
		while (ubd_worker_run(worker))
			;
	}
	return 0;
}

/* Callable from interrupts. */
void ubd_worker_queue(struct ubd_worker *worker, struct ubd_work *work,
		      bool read)
{
	unsigned long flags;

	spin_lock_irqsave(&worker->lock, flags);
	list_add_tail(&work->node, read ? &worker->reads : &worker->writes);
	spin_unlock_irqrestore(&worker->lock, flags);
	wake_up(&worker->wait);
}

/* With the first file slot; under ub->mutex. */
int ubd_worker_start(struct ubd_device *ub)
{
	struct ubd_worker *worker = &ub->worker;
	struct task_struct *task;
	int i;

	for (i = 0; i < UBD_WORKERS; i++) {
		if (worker->thread[i])
			continue;
		task = kthread_run(ubd_worker_fn, worker, "ubd%d/%d",
				   ub->id, i);
		if (IS_ERR(task))
			return PTR_ERR(task);
		worker->thread[i] = task;
	}
	return 0;
}

/* No bio is in flight any more, hence no work. */
void ubd_worker_stop(struct ubd_device *ub)
{
	int i;

	for (i = 0; i < UBD_WORKERS; i++)
		if (ub->worker.thread[i])
			kthread_stop(ub->worker.thread[i]);
	WARN_ON_ONCE(ubd_worker_has_work(&ub->worker));
}
