// SPDX-License-Identifier: GPL-2.0
/*
 * A device from ADD to DEL. Constant topology: a front disk over a hidden one,
 * both made by START and deleted by STOP. The hidden disk's structure, the
 * slots and the device outlive the front's last opener, because a bio sent on
 * in place may still be on its way to them.
 */
#include <linux/idr.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "ubd.h"

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
	mempool_exit(&ub->fio_pool);
	mempool_exit(&ub->flush_pool);
	bioset_exit(&ub->split_bs);
	bioset_exit(&ub->flush_bs);
	free_percpu(ub->stats);
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

static void ubd_scan_fn(struct work_struct *work)
{
	struct ubd_device *ub = container_of(work, struct ubd_device,
					     scan_work);
	struct gendisk *front = ub->front;

	/* STOP cancels us before it clears ub->front. */
	clear_bit(GD_SUPPRESS_PART_SCAN, &front->state);
	mutex_lock(&front->open_mutex);
	bdev_disk_changed(front, false);
	mutex_unlock(&front->open_mutex);
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
	ret = ubd_flush_init_device(ub);
	if (ret)
		return ret;
	ret = ubd_file_init_device(ub);
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

	ub = kvzalloc(sizeof(*ub), GFP_KERNEL);
	if (!ub)
		return -ENOMEM;
	id = ubd_alloc_id(ub, info->dev_id);
	if (id < 0) {
		kvfree(ub);
		return id;
	}
	atomic_inc(&ubd_nr_devices);
	ub->id = id;
	info->dev_id = id;
	ub->info = *info;
	mutex_init(&ub->mutex);
	mutex_init(&ub->stop_mutex);
	mutex_init(&ub->slot_mutex);
	init_completion(&ub->ready);
	init_waitqueue_head(&ub->wait);
	ubd_worker_init(&ub->worker);
	INIT_WORK(&ub->scan_work, ubd_scan_fn);

	dev = &ub->cdev_dev;
	device_initialize(dev);
	dev->class = ubd_class;
	dev->release = ubd_release;
	dev->devt = MKDEV(MAJOR(ubd_chr_devt), id);
	ret = dev_set_name(dev, "ubdc%d", id);
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

static void ubd_hidden_limits(struct ubd_device *ub, struct queue_limits *lim)
{
	const struct ublk_param_basic *p = &ub->params.basic;

	*lim = (struct queue_limits) {
		.logical_block_size	= 1 << p->logical_bs_shift,
		.physical_block_size	= 1 << p->physical_bs_shift,
		.io_min			= 1 << p->io_min_shift,
		.io_opt			= 1 << p->io_opt_shift,
		.max_hw_sectors		= p->max_sectors,
		.chunk_sectors		= p->chunk_sectors,
		.virt_boundary_mask	= p->virt_boundary_mask,
		.max_segments		= USHRT_MAX,
		.max_segment_size	= UINT_MAX,
		.dma_alignment		= 3,
	};
	if (p->attrs & UBLK_ATTR_VOLATILE_CACHE) {
		lim->features |= BLK_FEAT_WRITE_CACHE;
		if (p->attrs & UBLK_ATTR_FUA)
			lim->features |= BLK_FEAT_FUA;
	}
	if (p->attrs & UBLK_ATTR_ROTATIONAL)
		lim->features |= BLK_FEAT_ROTATIONAL;
	if (ub->params.types & UBLK_PARAM_TYPE_DISCARD) {
		const struct ublk_param_discard *d = &ub->params.discard;

		lim->discard_alignment = d->discard_alignment;
		lim->discard_granularity = d->discard_granularity;
		lim->max_hw_discard_sectors = d->max_discard_sectors;
		lim->max_write_zeroes_sectors = d->max_write_zeroes_sectors;
		lim->max_discard_segments = d->max_discard_segments;
	}
}

static int ubd_add_hidden(struct ubd_device *ub)
{
	struct queue_limits lim;
	struct gendisk *disk;
	int ret;

	ubd_hidden_limits(ub, &lim);
	disk = blk_mq_alloc_disk(&ub->tag_set, &lim, ub);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	snprintf(disk->disk_name, sizeof(disk->disk_name), "ubdh%d", ub->id);
	disk->flags |= GENHD_FL_HIDDEN;
	disk->fops = &ubd_hidden_fops;
	disk->private_data = ub;
	set_capacity(disk, ub->params.basic.dev_sectors);
	ret = device_add_disk(NULL, disk, NULL);
	if (ret) {
		put_disk(disk);
		return ret;
	}
	ub->hidden = disk;
	ub->hidden_bdev = disk->part0;
	return 0;
}

static int ubd_add_front(struct ubd_device *ub)
{
	struct queue_limits lim;
	struct gendisk *disk;
	int ret;

	ubd_front_limits(ub, &lim, &ub->hidden->queue->limits);
	disk = blk_alloc_disk(&lim, NUMA_NO_NODE);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
	snprintf(disk->disk_name, sizeof(disk->disk_name), "ubdb%d", ub->id);
	disk->fops = &ubd_front_fops;
	disk->private_data = ub;
	set_capacity(disk, ub->params.basic.dev_sectors);
	if (ub->params.basic.attrs & UBLK_ATTR_READ_ONLY)
		set_disk_ro(disk, true);
	/* The scan waits for I/O that our caller may have to serve: later. */
	set_bit(GD_SUPPRESS_PART_SCAN, &disk->state);

	ub->block_mask = (lim.logical_block_size >> SECTOR_SHIFT) - 1;
	ub->daemon_flush = ub->params.basic.attrs & UBLK_ATTR_VOLATILE_CACHE;
	ub->front_bdev = disk->part0;
	/* Everything must stand: udev reads the disk while it is added. */
	get_device(&ub->cdev_dev);
	set_bit(UBD_ST_FRONT, &ub->state);
	WRITE_ONCE(ub->fail_declined, false);
	ub->front = disk;
	ret = device_add_disk(NULL, disk, ubd_groups);
	if (!ret)
		return 0;
	ub->front = NULL;
	clear_bit(UBD_ST_FRONT, &ub->state);
	put_disk(disk);
	put_device(&ub->cdev_dev);
	return ret;
}

/* The front's last user is gone: no bio is left. From ->free_disk. */
void ubd_front_gone(struct ubd_device *ub)
{
	put_disk(ub->hidden);
	ub->hidden = NULL;
	ub->hidden_bdev = NULL;
	/* START after this finds the fields above cleared. */
	smp_mb__before_atomic();
	clear_bit(UBD_ST_FRONT, &ub->state);
	/* Pairs with the barrier of test_and_set_bit() in ubd_delete(). */
	smp_mb__after_atomic();
	ubd_slots_release(ub, test_bit(UBD_ST_DELETED, &ub->state), true);
	put_device(&ub->cdev_dev);
}

/* Every tag of every queue is held by a server that still lives. */
static bool ubd_is_served(struct ubd_device *ub)
{
	unsigned int i;

	for (i = 0; i < ub->info.nr_hw_queues; i++)
		if (READ_ONCE(ub->queues[i]->dead))
			return false;
	return !ub->aborting && ub->nr_queues_ready == ub->info.nr_hw_queues;
}

/* START: wait until every tag was FETCHed, then make the disks. */
int ubd_start(struct ubd_device *ub, int pid)
{
	int ret;

	if (pid <= 0)
		return -EINVAL;
	if (wait_for_completion_interruptible(&ub->ready))
		return -EINTR;

	mutex_lock(&ub->mutex);
	if (test_bit(UBD_ST_DELETED, &ub->state))
		ret = -ENODEV;
	else if (ub->front)
		ret = -EEXIST;
	else if (!(ub->params.types & UBLK_PARAM_TYPE_BASIC))
		ret = -EINVAL;
	else if (test_bit(UBD_ST_FRONT, &ub->state) || !ubd_is_served(ub))
		ret = -EBUSY;	/* the old server, or users of the old front */
	else
		ret = ubd_add_hidden(ub);
	if (ret)
		goto unlock;

	ub->info.state = UBLK_S_DEV_LIVE;
	ub->info.ublksrv_pid = pid;
	ret = ubd_add_front(ub);
	if (ret) {
		ub->info.state = UBLK_S_DEV_DEAD;
		ub->info.ublksrv_pid = -1;
		del_gendisk(ub->hidden);
		put_disk(ub->hidden);
		ub->hidden = NULL;
		goto unlock;
	}
	queue_work(system_unbound_wq, &ub->scan_work);
unlock:
	mutex_unlock(&ub->mutex);
	return ret;
}

static bool ubd_is_copying(struct ubd_device *ub)
{
	bool copying = false;
	unsigned int i;

	for (i = 0; i < ub->info.nr_hw_queues; i++)
		copying |= ubd_end_server_requests(ub->queues[i]);
	return copying;
}

/*
 * STOP ends with the daemon alive, dead or frozen: declined bios fail first,
 * then what the daemon holds, then the disks go. ub->mutex is not held over
 * anything that waits.
 */
void ubd_stop(struct ubd_device *ub)
{
	struct gendisk *front;

	mutex_lock(&ub->stop_mutex);
	mutex_lock(&ub->mutex);
	front = ub->front;
	ub->stopping = front;
	WRITE_ONCE(ub->fail_declined, true);
	WRITE_ONCE(ub->aborting, true);
	mutex_unlock(&ub->mutex);
	if (!front) {
		/* A server that was never started waits for its end, too. */
		ubd_cancel_commands(ub);
		goto unlock;
	}

	/* Copies run in the server; one that hangs there is killed. */
	if (!wait_event_timeout(ub->wait, !ubd_is_copying(ub), UBD_PATIENCE)) {
		ubd_kill_server(ub);
		wait_event(ub->wait, !ubd_is_copying(ub));
	}
	/* The scan's own I/O has just been ended. */
	cancel_work_sync(&ub->scan_work);
	del_gendisk(front);
	del_gendisk(ub->hidden);
	/* Before the next server may come: these are the old one's. */
	ubd_cancel_commands(ub);

	mutex_lock(&ub->mutex);
	ub->front = NULL;
	ub->stopping = false;
	ub->info.state = UBLK_S_DEV_DEAD;
	ub->info.ublksrv_pid = -1;
	mutex_unlock(&ub->mutex);
	put_disk(front);
unlock:
	mutex_unlock(&ub->stop_mutex);
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
	if (test_and_set_bit(UBD_ST_DELETED, &ub->state))
		return -ENODEV;
	/* Whoever is about to start or serve it finds it deleted. */
	mutex_lock(&ub->mutex);
	WRITE_ONCE(ub->aborting, true);
	complete_all(&ub->ready);
	mutex_unlock(&ub->mutex);

	ubd_stop(ub);
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
