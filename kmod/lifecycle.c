// SPDX-License-Identifier: GPL-2.0
/* A device from ADD to DEL: its number, its resources, its char device. */
#include <linux/idr.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ubd.h"
#include "channel.h"

static atomic_t ubd_nr_unprivileged = ATOMIC_INIT(0);
static DEFINE_IDR(ubd_idr);
static DEFINE_SPINLOCK(ubd_idr_lock);	/* protects ubd_idr */

struct ubd_device *ubd_get_device(int id)
{
	struct ubd_device *ub;

	spin_lock(&ubd_idr_lock);
	ub = idr_find(&ubd_idr, id);
	if (ub)
		get_device(&ub->cdev_dev);
	spin_unlock(&ubd_idr_lock);
	return ub;
}

void ubd_put_device(struct ubd_device *ub)
{
	put_device(&ub->cdev_dev);
}

static void ubd_free_rcu(struct rcu_head *rcu)
{
	kvfree(container_of(rcu, struct ubd_device, rcu));
	if (atomic_dec_and_test(&ubd_nr_devices))
		wake_up(&ubd_exit_wait);
}

/* Nothing points here any more; also for a device made half-way. */
static void ubd_release(struct device *dev)
{
	struct ubd_device *ub = container_of(dev, struct ubd_device, cdev_dev);

	ubd_worker_stop(ub);
	if (ub->wq)
		destroy_workqueue(ub->wq);
	if (ub->tag_set.tags)
		blk_mq_free_tag_set(&ub->tag_set);
	ubd_queues_free(ub);
	ubd_fio_exit_device(ub);
	mempool_exit(&ub->flush_pool);
	bioset_exit(&ub->split_bs);
	bioset_exit(&ub->flush_bs);
	bioset_exit(&ub->forward_bs);
	ubd_track_exit_device(ub);
	free_percpu(ub->stats);
	if (ubd_is_unprivileged(ub))
		atomic_dec(&ubd_nr_unprivileged);
	call_rcu(&ub->rcu, ubd_free_rcu);
}

static int ubd_alloc_id(struct ubd_device *ub, u32 want)
{
	int id;

	idr_preload(GFP_KERNEL);
	spin_lock(&ubd_idr_lock);
	if (want == U32_MAX)
		id = idr_alloc(&ubd_idr, NULL, 0, UBD_MAX_DEVICES, GFP_NOWAIT);
	else
		id = idr_alloc(&ubd_idr, NULL, want, want + 1, GFP_NOWAIT);
	spin_unlock(&ubd_idr_lock);
	idr_preload_end();
	/* One number asked for, and it is not free. */
	return id == -ENOSPC && want != U32_MAX ? -EEXIST : id;
}

/* The device can be found from here on, or its number is free again. */
static void ubd_publish(int id, struct ubd_device *ub)
{
	spin_lock(&ubd_idr_lock);
	if (ub)
		idr_replace(&ubd_idr, ub, id);
	else
		idr_remove(&ubd_idr, id);
	spin_unlock(&ubd_idr_lock);
}

static int ubd_init_resources(struct ubd_device *ub)
{
	int ret;

	ub->stats = alloc_percpu(struct ubd_stats);
	if (!ub->stats)
		return -ENOMEM;
	ret = bioset_init(&ub->split_bs, BIO_POOL_SIZE, 0, 0);
	if (ret)
		return ret;
	ret = bioset_init(&ub->flush_bs, BIO_POOL_SIZE, 0, 0);
	if (ret)
		return ret;
	ret = ubd_track_init_device(ub);
	if (ret)
		return ret;
	ret = ubd_forward_init_device(ub);
	if (ret)
		return ret;
	ret = ubd_flush_init_device(ub);
	if (ret)
		return ret;
	ret = ubd_fio_init_device(ub);
	if (ret)
		return ret;
	ub->wq = alloc_workqueue("ubd%d", WQ_MEM_RECLAIM | WQ_UNBOUND, 0,
				 ub->id);
	if (!ub->wq)
		return -ENOMEM;
	ret = ubd_queues_alloc(ub);
	if (ret)
		return ret;

	ub->tag_set.ops = &ubd_mq_ops;
	ub->tag_set.nr_hw_queues = ub->info.nr_hw_queues;
	ub->tag_set.queue_depth = ub->info.queue_depth;
	ub->tag_set.numa_node = NUMA_NO_NODE;
	ub->tag_set.cmd_size = sizeof(struct ubd_rq);
	ub->tag_set.flags = UBD_SHOULD_MERGE | UBD_NO_SCHED_BY_DEFAULT;
	ub->tag_set.driver_data = ub;
	return blk_mq_alloc_tag_set(&ub->tag_set);
}

/* ADD: @info has been checked; its dev_id comes back resolved. */
int ubd_add(struct ublksrv_ctrl_dev_info *info)
{
	struct ubd_device *ub;
	struct device *dev;
	int id, ret;
	bool over;

	ub = kvzalloc(sizeof(*ub), GFP_KERNEL);
	if (!ub)
		return -ENOMEM;
	id = ubd_alloc_id(ub, info->dev_id);
	if (id < 0) {
		kvfree(ub);
		return id;
	}
	atomic_inc(&ubd_nr_devices);
	/* Too many are counted, too: ubd_release() takes it back. */
	over = info->flags & UBLK_F_UNPRIVILEGED_DEV &&
	       atomic_inc_return(&ubd_nr_unprivileged) > UBD_MAX_UNPRIVILEGED;
	ub->id = id;
	info->dev_id = id;
	ub->info = *info;
	mutex_init(&ub->mutex);
	mutex_init(&ub->stop_mutex);
	mutex_init(&ub->slot_mutex);
	init_completion(&ub->ready);
	init_waitqueue_head(&ub->wait);
	ubd_worker_init(&ub->worker);
	INIT_WORK(&ub->scan_work, ubd_scan_partitions);

	dev = &ub->cdev_dev;
	device_initialize(dev);
	dev->class = ubd_class;
	dev->type = &ubd_chr_type;
	dev->release = ubd_release;
	dev->devt = MKDEV(MAJOR(ubd_chr_devt), id);
	ret = dev_set_name(dev, "ubdc%d", id);
	if (!ret && over)
		ret = -EACCES;
	if (ret)
		goto err;
	ret = ubd_init_resources(ub);
	if (ret)
		goto err;
	cdev_init(&ub->cdev, &ubd_ch_fops);
	ub->cdev.owner = THIS_MODULE;
	ret = cdev_device_add(&ub->cdev, dev);
	if (ret)
		goto err;
	/* Last: a DEL that finds it takes it all down again. */
	ubd_publish(id, ub);
	return 0;
err:
	ubd_publish(id, NULL);
	put_device(dev);
	return ret;
}

static bool ubd_is_closed(struct ubd_device *ub)
{
	return !test_bit(UBD_ST_OPEN, &ub->state);
}

/* A server that deletes its own device cannot close it meanwhile. */
static bool ubd_is_own_server(struct ubd_device *ub)
{
	bool own;

	mutex_lock(&ub->mutex);
	own = ub->server && same_thread_group(ub->server, current);
	mutex_unlock(&ub->mutex);
	return own;
}

/*
 * DEL: the number is free on return. Waits for the server to close the char
 * device, and kills it if it does not; never waits for openers of the front.
 */
int ubd_delete(struct ubd_device *ub, bool wait)
{
	int ret;

	if (test_and_set_bit(UBD_ST_DELETED, &ub->state))
		return -ENODEV;
	/* Whoever is about to start or serve it finds it deleted. */
	mutex_lock(&ub->mutex);
	WRITE_ONCE(ub->aborting, true);
	complete_all(&ub->ready);
	mutex_unlock(&ub->mutex);

	ret = ubd_stop(ub);
	if (ret) {
		/* Killed while it waited; somebody else may try. */
		clear_bit(UBD_ST_DELETED, &ub->state);
		return ret;
	}
	ubd_unbind(ub);
	cdev_device_del(&ub->cdev, &ub->cdev_dev);
	if (!test_bit(UBD_ST_FRONT, &ub->state))
		ubd_slots_release(ub, true, true);
	if (wait && !ubd_is_own_server(ub) &&
	    !wait_event_timeout(ub->wait, ubd_is_closed(ub), UBD_PATIENCE)) {
		ubd_kill_server(ub);
		wait_event_timeout(ub->wait, ubd_is_closed(ub), UBD_PATIENCE);
	}
	ubd_publish(ub->id, NULL);
	ubd_put_device(ub);
	return 0;
}

/* Module exit: nothing is open, or we would not be here. */
void ubd_delete_all(void)
{
	struct ubd_device *ub;
	int id = 0;

	for (;;) {
		spin_lock(&ubd_idr_lock);
		ub = idr_get_next(&ubd_idr, &id);
		if (ub)
			get_device(&ub->cdev_dev);
		spin_unlock(&ubd_idr_lock);
		if (!ub)
			break;
		ubd_delete(ub, false);
		ubd_put_device(ub);
		id++;
	}
	idr_destroy(&ubd_idr);
}
