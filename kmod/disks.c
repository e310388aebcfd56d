// SPDX-License-Identifier: GPL-2.0
/*
 * The two disks of a device: a front over a hidden one, made by START, deleted
 * by STOP. The hidden disk's structure, the slots and the device outlive the
 * front's last opener, because a bio sent on in place may still be on its way
 * to them.
 */
#include <linux/module.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "ubd.h"
#include "channel.h"

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
	if (ub->params.types & UBLK_PARAM_TYPE_DMA_ALIGN)
		lim->dma_alignment = ub->params.dma.alignment;
	if (ub->params.types & UBLK_PARAM_TYPE_SEGMENT) {
		lim->seg_boundary_mask = ub->params.seg.seg_boundary_mask;
		lim->max_segment_size = ub->params.seg.max_segment_size;
		lim->max_segments = ub->params.seg.max_segments;
	}
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
	/* Its iostat is the front's: nobody has to keep it a second time. */
	lim = queue_limits_start_update(disk->queue);
	lim.features &= ~BLK_FEAT_IO_STAT;
	ret = queue_limits_commit_update(disk->queue, &lim);
	ubd_no_throttling_before(disk);
	if (!ret)
		ret = device_add_disk(NULL, disk, NULL);
	if (ret) {
		put_disk(disk);
		return ret;
	}
	ubd_no_throttling_after(disk);
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
	clear_bit(UBD_ST_SHUT, &ub->state);
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
	if (ubd_slots_end_front(ub))
		ubd_slots_release(ub, true, true);
	put_device(&ub->cdev_dev);
}

/* Every tag of every queue is held by a server that still lives. */
bool ubd_is_served(struct ubd_device *ub)
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
		copying |= ubd_end_server_requests(ub->queues[i], NULL,
						   NULL);
	return copying;
}

/*
 * Get back what the server has, by force if need be. A server that stops itself
 * must be able to die of it: its rings, and the buffers in them, go only when
 * all of it has gone.
 */
static int ubd_take_back(struct ubd_device *ub)
{
	if (wait_event_timeout(ub->wait, !ubd_is_copying(ub), UBD_PATIENCE))
		return 0;
	ubd_kill_server(ub);
	/* The module's exit has nobody to leave it to. */
	if (THIS_MODULE->state == MODULE_STATE_GOING) {
		wait_event(ub->wait, !ubd_is_copying(ub));
		return 0;
	}
	return wait_event_killable(ub->wait, !ubd_is_copying(ub)) ? -EINTR : 0;
}

/*
 * STOP ends with the daemon alive, dead or frozen: declined bios fail first,
 * then what the daemon holds, then the disks go. ub->mutex is not held over
 * anything that waits. -EINTR: the caller was killed; all I/O fails, the disks
 * wait for the next STOP.
 */
int ubd_stop(struct ubd_device *ub)
{
	struct gendisk *front;
	int ret = 0;

	mutex_lock(&ub->stop_mutex);
	mutex_lock(&ub->mutex);
	front = ub->front;
	ub->stopping = front;
	WRITE_ONCE(ub->recovering, false);
	WRITE_ONCE(ub->fail_declined, true);
	WRITE_ONCE(ub->aborting, true);
	if (front) {
		WRITE_ONCE(ub->draining, true);
		ubd_unquiesce(ub);
	}
	mutex_unlock(&ub->mutex);
	if (!front) {
		/* A server that was never started waits for its end, too. */
		ubd_end_commands(ubd_take_commands(ub));
		goto unlock;
	}

	ret = ubd_take_back(ub);
	if (ret) {
		mutex_lock(&ub->mutex);
		ub->stopping = false;
		ub->draining = false;
		mutex_unlock(&ub->mutex);
		goto unlock;
	}
	/* The scan's own I/O has just been ended. */
	cancel_work_sync(&ub->scan_work);
	del_gendisk(front);
	del_gendisk(ub->hidden);
	/* Before the next server may come: these are the old one's. */
	ubd_end_commands(ubd_take_commands(ub));

	mutex_lock(&ub->mutex);
	ub->front = NULL;
	ub->stopping = false;
	ub->draining = false;
	ubd_bind_park(ub, false);
	ub->info.state = UBLK_S_DEV_DEAD;
	ub->info.ublksrv_pid = -1;
	mutex_unlock(&ub->mutex);
	put_disk(front);
unlock:
	mutex_unlock(&ub->stop_mutex);
	return ret;
}

/*
 * The scan waits for I/O that START's caller may have to serve, so it comes
 * after. STOP cancels it before it clears ub->front.
 */
void ubd_scan_partitions(struct work_struct *work)
{
	struct ubd_device *ub = container_of(work, struct ubd_device,
					     scan_work);
	struct gendisk *front = ub->front;

	clear_bit(GD_SUPPRESS_PART_SCAN, &front->state);
	/* Nor is the kernel to parse what anybody could have written. */
	if (ub->info.flags & UBLK_F_NO_AUTO_PART_SCAN || ubd_is_unprivileged(ub))
		return;
	mutex_lock(&front->open_mutex);
	bdev_disk_changed(front, false);
	mutex_unlock(&front->open_mutex);
}

/* STOP, unless somebody has it open; from then on nobody can open it. */
int ubd_try_stop(struct ubd_device *ub)
{
	struct gendisk *front;
	int ret = 0;

	mutex_lock(&ub->mutex);
	front = ub->front;
	if (front)
		get_device(disk_to_dev(front));
	mutex_unlock(&ub->mutex);
	if (front) {
		/* Openers come and go under it; one may wait for the server. */
		ret = mutex_lock_killable(&front->open_mutex);
		if (!ret) {
			if (disk_openers(front))
				ret = -EBUSY;
			else
				set_bit(UBD_ST_SHUT, &ub->state);
			mutex_unlock(&front->open_mutex);
		}
	}
	if (!ret) {
		ret = ubd_stop(ub);
		if (ret)
			clear_bit(UBD_ST_SHUT, &ub->state);
	}
	/* Held until here, or another one might have been stopped. */
	if (front)
		put_disk(front);
	return ret;
}

/* A new size, of which udev and file systems hear. */
int ubd_update_size(struct ubd_device *ub, u64 sectors)
{
	int ret = 0;

	if (!(ub->info.flags & UBLK_F_UPDATE_SIZE))
		return -EOPNOTSUPP;
	mutex_lock(&ub->mutex);
	if (!ub->front || ub->stopping)
		ret = -ENODEV;
	else if (sectors & ub->block_mask || sectors > LLONG_MAX >> SECTOR_SHIFT)
		ret = -EINVAL;
	if (!ret) {
		ub->params.basic.dev_sectors = sectors;
		set_capacity(ub->hidden, sectors);
		set_capacity_and_notify(ub->front, sectors);
	}
	mutex_unlock(&ub->mutex);
	return ret;
}
