// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel threads that call file systems: several, so that one blocked call
 * stops nobody, and threads rather than a WQ_MEM_RECLAIM workqueue, because
 * XFS flushes a workqueue of its own that is not one when it is out of space.
 */
#include <linux/kthread.h>
#include <linux/sched.h>

#include "ubd.h"

static struct ubd_work *ubd_worker_pop(struct ubd_worker *worker)
{
	struct ubd_work *work;

	spin_lock_irq(&worker->lock);
	work = list_first_entry_or_null(&worker->list, struct ubd_work, node);
	if (work)
		list_del(&work->node);
	spin_unlock_irq(&worker->lock);
	return work;
}

static int ubd_worker_fn(void *data)
{
	struct ubd_worker *worker = data;
	struct ubd_work *work;

	/* As loop: I/O for others must not wait for dirty pages of others. */
	current->flags |= PF_LOCAL_THROTTLE | PF_MEMALLOC_NOIO;
	while (!kthread_should_stop()) {
		wait_event_idle_exclusive(worker->wait,
					  !list_empty_careful(&worker->list) ||
					  kthread_should_stop());
		while ((work = ubd_worker_pop(worker)))
			work->fn(work);
	}
	return 0;
}

/* Callable from interrupts. */
void ubd_worker_queue(struct ubd_worker *worker, struct ubd_work *work)
{
	unsigned long flags;

	spin_lock_irqsave(&worker->lock, flags);
	list_add_tail(&work->node, &worker->list);
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
	WARN_ON_ONCE(!list_empty(&ub->worker.list));
}
