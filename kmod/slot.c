// SPDX-License-Identifier: GPL-2.0
/*
 * The table of backings a program may name: registered by fd, reopened for
 * ourselves, held until no bio can point to them.
 */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/kdev_t.h>
#include <linux/uaccess.h>

#include "ubd.h"

/* One holder for all: windows of one disk may share it, a mount may not. */
static const char ubd_holder[] = "ubd";

static bool ubd_is_front(struct block_device *bdev)
{
	return bdev->bd_disk->fops == &ubd_front_fops;
}

/* A slot-to-be, opened but not yet in the table. */
struct ubd_backing {
	struct file *file;
	struct block_device *bdev;	/* NULL for a regular file */
	u64 size;			/* sectors */
	struct queue_limits lim;	/* what it asks of the front */
};

static int ubd_open_bdev(struct ubd_backing *b, struct block_device *bdev,
			 bool write)
{
	blk_mode_t mode = BLK_OPEN_READ | (write ? BLK_OPEN_WRITE : 0);

	if (ubd_is_front(bdev))
		return -ELOOP;
	if (bdev_is_zoned(bdev))
		return -EINVAL;
	if (write && bdev_read_only(bdev))
		return -EROFS;
	b->file = bdev_file_open_by_dev(bdev->bd_dev, mode,
					write ? (void *)ubd_holder : NULL, NULL);
	if (IS_ERR(b->file))
		return PTR_ERR(b->file);
	b->bdev = file_bdev(b->file);
	b->size = bdev_nr_sectors(b->bdev);
	b->lim = bdev_get_queue(b->bdev)->limits;
	return 0;
}

static int ubd_open_file(struct ubd_backing *b, struct file *src, bool write,
			 bool direct)
{
	struct super_block *sb = file_inode(src)->i_sb;
	int flags = O_LARGEFILE | O_NOATIME | (write ? O_RDWR : O_RDONLY);
	int ret;

	if (sb->s_bdev && ubd_is_front(sb->s_bdev))
		return -ELOOP;
	/* Some files of proc, sysfs and debugfs are regular in name only. */
	if (!src->f_op->read_iter || (write && !src->f_op->write_iter))
		return -EINVAL;
	if (write && (IS_APPEND(file_inode(src)) || IS_IMMUTABLE(file_inode(src))))
		return -EPERM;
	if (direct)
		flags |= O_DIRECT;
	/* Our own struct file: modes and flags are not shared with the caller. */
	b->file = dentry_open(&src->f_path, flags, current_cred());
	if (IS_ERR(b->file))
		return PTR_ERR(b->file);
	/* Times wait for the journal, a write must not: see ubd_file_touch(). */
	b->file->f_mode |= FMODE_NOCMTIME;
	b->size = i_size_read(file_inode(b->file)) >> SECTOR_SHIFT;
	ret = ubd_file_limits(b->file, &b->lim);
	if (ret)
		fput(b->file);
	return ret;
}

static int ubd_open_backing(struct ubd_backing *b, const struct ubd_slot_reg *reg)
{
	bool write = reg->flags & UBD_SLOT_WRITE;
	struct file *src = fget(reg->fd);
	struct inode *inode;
	int ret = -EINVAL;

	if (!src)
		return -EBADF;
	inode = file_inode(src);
	if (!(src->f_mode & FMODE_READ) ||
	    (write && !(src->f_mode & FMODE_WRITE)))
		ret = -EACCES;
	else if (S_ISBLK(inode->i_mode))
		ret = ubd_open_bdev(b, file_bdev(src), write);
	else if (S_ISREG(inode->i_mode))
		ret = ubd_open_file(b, src, write, reg->flags & UBD_SLOT_DIRECT);
	fput(src);
	return ret;
}

/* Resolve the window; the end of the backing is the default end. */
static int ubd_set_window(u64 offset, u64 *nr_sectors, u64 size,
			  unsigned int block_mask)
{
	u64 room;

	if (offset >= size)
		return -EINVAL;
	room = size - offset;
	if (!*nr_sectors)
		*nr_sectors = room & ~(u64)block_mask;
	if (!*nr_sectors || *nr_sectors > room ||
	    (offset | *nr_sectors) & block_mask)
		return -EINVAL;
	return 0;
}

/*
 * Limits of a live disk do not change under its users: opened files have
 * latched NOWAIT, O_DIRECT users were checked against the alignment.
 */
static bool ubd_fits_live(struct ubd_device *ub, const struct queue_limits *lim)
{
	const struct queue_limits *live;

	if (!ub->front)
		return true;
	live = &ub->front->queue->limits;
	return lim->logical_block_size <= live->logical_block_size &&
	       lim->dma_alignment <= live->dma_alignment &&
	       !(lim->features & ~live->features & BLK_FEAT_STABLE_WRITES) &&
	       !(live->features & ~lim->features & BLK_FEAT_NOWAIT);
}

static int ubd_slot_pick(struct ubd_device *ub, u32 want)
{
	u32 nr;

	if (want != UBD_SLOT_ANY) {
		if (want >= UBD_MAX_SLOTS)
			return -EINVAL;
		return ub->slots[want].file ? -EBUSY : want;
	}
	for (nr = 0; nr < UBD_MAX_SLOTS; nr++)
		if (!ub->slots[nr].file)
			return nr;
	return -ENOSPC;
}

static void ubd_slot_publish(struct ubd_device *ub, u32 nr,
			     const struct ubd_backing *b,
			     const struct ubd_slot_reg *reg)
{
	struct ubd_slot *slot = &ub->slots[nr];
	unsigned int flags = UBD_SL_LIVE;

	if (reg->flags & UBD_SLOT_WRITE)
		flags |= UBD_SL_WRITE;
	if (!b->bdev)
		flags |= UBD_SL_FILE;
	else if (!bdev_is_partition(b->bdev))
		flags |= UBD_SL_WHOLE;
	if (!b->bdev && reg->flags & UBD_SLOT_DIRECT)
		flags |= UBD_SL_DIRECT;
	if (flags & UBD_SL_DIRECT && b->file->f_mode & FMODE_NOWAIT)
		flags |= UBD_SL_NOWAIT;

	slot->bdev = b->bdev;
	slot->file = b->file;
	slot->cred = get_current_cred();
	slot->base = reg->offset;
	slot->nr_sectors = reg->nr_sectors;
	slot->block_mask = (b->lim.logical_block_size >> SECTOR_SHIFT) - 1;
	slot->dma_mask = b->lim.dma_alignment;
	/* The past: the first write sets the file's times, at once. */
	slot->touched = jiffies - HZ;
	slot->failed[0] = slot->failed[1] = jiffies - HZ;
	/* Publishes all of the above to the front. */
	smp_store_release(&slot->flags, flags);
	if (nr >= ub->nr_slots)
		WRITE_ONCE(ub->nr_slots, nr + 1);
}

int ubd_slot_register(struct ubd_device *ub, struct ubd_slot_reg *reg)
{
	struct ubd_backing b = { };
	int ret;

	if (reg->flags & ~(UBD_SLOT_WRITE | UBD_SLOT_DIRECT))
		return -EINVAL;
	ret = ubd_open_backing(&b, reg);
	if (ret)
		return ret;
	ret = ubd_set_window(reg->offset, &reg->nr_sectors, b.size,
			     (b.lim.logical_block_size >> SECTOR_SHIFT) - 1);
	if (ret)
		goto err_fput;

	/* START stacks the slots under the same mutex: none slips between. */
	mutex_lock(&ub->mutex);
	ret = -ENODEV;
	if (test_bit(UBD_ST_DELETED, &ub->state))
		goto err_unlock;
	ret = -EOPNOTSUPP;
	if (!ubd_fits_live(ub, &b.lim))
		goto err_unlock;
	if (!b.bdev) {
		ret = ubd_worker_start(ub);
		if (ret)
			goto err_unlock;
	}
	mutex_lock(&ub->slot_mutex);
	ret = ubd_slot_pick(ub, reg->slot);
	if (ret >= 0) {
		reg->slot = ret;
		ubd_slot_publish(ub, ret, &b, reg);
		ret = 0;
	}
	mutex_unlock(&ub->slot_mutex);
err_unlock:
	mutex_unlock(&ub->mutex);
err_fput:
	if (ret)
		__fput_sync(b.file);
	return ret;
}

/* What a slot leaves behind when it is taken out of the table. */
struct ubd_detached {
	struct file *file;
	bool dirty;		/* owes a flush */
	bool touch;		/* owes the file its times */
};

/* What was written to a slot outlives it: flush before letting go. */
static void ubd_slot_flush(const struct ubd_detached *d)
{
	if (d->touch && !ubd_file_touch(d->file))
		pr_warn("ubd: a released file is on a frozen file system and keeps its old times\n");
	if (d->dirty && vfs_fsync(d->file, 1))
		pr_warn("ubd: flush of a released slot failed\n");
}

static void ubd_slot_close(const struct ubd_detached *d, bool sync)
{
	ubd_slot_flush(d);
	if (sync)
		__fput_sync(d->file);
	else
		fput(d->file);
}

/*
 * Take a slot out of the table: one that drains, or any with @all. Only while
 * the front has no openers. True if *d wants ubd_slot_close(), outside of the
 * locks.
 */
static bool ubd_slot_detach(struct ubd_device *ub, u32 nr, bool all,
			    struct ubd_detached *d)
{
	struct ubd_slot *slot = &ub->slots[nr];

	d->file = NULL;
	mutex_lock(&ub->slot_mutex);
	if (all || slot->flags & UBD_SL_DRAINING) {
		swap(d->file, slot->file);
		d->dirty = slot->dirty;
		d->touch = slot->touch;
		WRITE_ONCE(slot->flags, 0);
		WRITE_ONCE(slot->dirty, false);
		WRITE_ONCE(slot->touch, false);
		if (d->file)
			put_cred(slot->cred);
	}
	mutex_unlock(&ub->slot_mutex);
	return d->file;
}

/* One of them all, as above. */
static bool ubd_slots_detach(struct ubd_device *ub, bool all,
			     struct ubd_detached *d)
{
	u32 nr;

	for (nr = 0; nr < UBD_MAX_SLOTS; nr++)
		if (ubd_slot_detach(ub, nr, all, d))
			return true;
	return false;
}

/*
 * Release what nobody can be using any more. With @sync the files are closed on
 * return, so that the backing is free for others; not under open_mutex.
 */
void ubd_slots_release(struct ubd_device *ub, bool all, bool sync)
{
	struct ubd_detached d;

	while (ubd_slots_detach(ub, all, &d))
		ubd_slot_close(&d, sync);
}

/*
 * Nobody uses the front any more. What drains goes, and only then another front
 * may come: START is refused until UBD_ST_FRONT is clear, and ub->mutex keeps
 * it, and an UNREG_SLOT, from coming between the last look and that. Returns
 * whether the rest is to go, too: DEL has come, and leaves that to us. Later
 * the slots may be another front's.
 */
bool ubd_slots_end_front(struct ubd_device *ub)
{
	struct ubd_detached d;
	bool deleted;

	mutex_lock(&ub->mutex);
	while (ubd_slots_detach(ub, false, &d)) {
		mutex_unlock(&ub->mutex);
		ubd_slot_close(&d, true);
		mutex_lock(&ub->mutex);
	}
	clear_bit(UBD_ST_FRONT, &ub->state);
	deleted = test_bit(UBD_ST_DELETED, &ub->state);
	mutex_unlock(&ub->mutex);
	return deleted;
}

static int ubd_slot_kill(struct ubd_device *ub, u32 nr)
{
	struct ubd_slot *slot = &ub->slots[nr];
	int ret = -ENOENT;

	mutex_lock(&ub->slot_mutex);
	if (slot->flags & UBD_SL_LIVE) {
		WRITE_ONCE(slot->flags, (slot->flags & ~UBD_SL_LIVE) |
					UBD_SL_DRAINING);
		ret = 0;
	}
	mutex_unlock(&ub->slot_mutex);
	return ret;
}

/*
 * Flush a slot that drains while it is in the table, where a flush of the front
 * finds it until it is clean: no FLUSH may end before what it covers.
 */
static void ubd_slot_flush_draining(struct ubd_device *ub, u32 nr)
{
	struct ubd_slot *slot = &ub->slots[nr];
	struct ubd_detached d = {};

	mutex_lock(&ub->slot_mutex);
	if (slot->flags & UBD_SL_DRAINING) {
		d.file = get_file(slot->file);
		d.dirty = slot->dirty;
		d.touch = slot->touch;
	}
	mutex_unlock(&ub->slot_mutex);
	if (!d.file)
		return;
	ubd_slot_flush(&d);
	fput(d.file);
}

/*
 * Verdicts that name the slot decline from now on. Its file goes now if the
 * front has no openers, else at the last close. -EINTR: the caller was killed
 * while somebody opened or closed the front; the file goes later.
 */
int ubd_slot_unregister(struct ubd_device *ub, u32 nr)
{
	struct gendisk *front = NULL;
	struct ubd_detached d;
	bool detached = false;
	bool idle;
	int ret;

	if (nr >= UBD_MAX_SLOTS)
		return -EINVAL;
	ret = ubd_slot_kill(ub, nr);
	if (ret)
		return ret;

	/*
	 * Without openers nothing is on its way: it stays as clean as this. With
	 * some, the last one's close takes it out, and flushes it.
	 */
	mutex_lock(&ub->mutex);
	idle = ub->front ? !disk_openers(ub->front) :
			   !test_bit(UBD_ST_FRONT, &ub->state);
	mutex_unlock(&ub->mutex);
	if (idle)
		ubd_slot_flush_draining(ub, nr);

	/* Under ub->mutex no START makes a front that could be opened. */
	mutex_lock(&ub->mutex);
	if (ub->front) {
		front = ub->front;
		get_device(disk_to_dev(front));
	} else if (!test_bit(UBD_ST_FRONT, &ub->state)) {
		detached = ubd_slot_detach(ub, nr, false, &d);
	}
	mutex_unlock(&ub->mutex);

	if (front) {
		/*
		 * No opener under open_mutex: no bio, and none can begin. Who
		 * has it may wait for the server, which may be the caller.
		 */
		ret = mutex_lock_killable(&front->open_mutex);
		if (!ret) {
			if (!disk_openers(front))
				detached = ubd_slot_detach(ub, nr, false, &d);
			mutex_unlock(&front->open_mutex);
		}
		put_disk(front);
	}
	/* It flushes again, for another slot may have got the number. */
	if (detached)
		ubd_slot_close(&d, true);
	return ret;
}

/* As far as the backing reaches now. A program may name the rest at once. */
int ubd_slot_resize(struct ubd_device *ub, struct ubd_slot_resize *resize)
{
	struct ubd_slot *slot;
	u64 size;
	int ret;

	if (resize->slot >= UBD_MAX_SLOTS)
		return -EINVAL;
	slot = &ub->slots[resize->slot];
	mutex_lock(&ub->slot_mutex);
	if (!(slot->flags & UBD_SL_LIVE)) {
		ret = -ENOENT;
		goto unlock;
	}
	size = slot->bdev ? bdev_nr_sectors(slot->bdev) :
	       (u64)i_size_read(file_inode(slot->file)) >> SECTOR_SHIFT;
	ret = ubd_set_window(slot->base, &resize->nr_sectors, size,
			     slot->block_mask);
	if (!ret)
		WRITE_ONCE(slot->nr_sectors, resize->nr_sectors);
unlock:
	mutex_unlock(&ub->slot_mutex);
	return ret;
}

static void ubd_slot_fill(struct ubd_slot_info *info, u32 nr,
			  const struct ubd_slot *slot)
{
	dev_t dev;

	memset(info, 0, sizeof(*info));
	info->slot = nr;
	info->offset = slot->base;
	info->nr_sectors = slot->nr_sectors;
	if (slot->flags & UBD_SL_WRITE)
		info->flags |= UBD_SLOT_WRITE;
	if (slot->flags & UBD_SL_DIRECT)
		info->flags |= UBD_SLOT_DIRECT;
	if (slot->flags & UBD_SL_DRAINING)
		info->flags |= UBD_SLOT_DRAINING;
	if (slot->dirty)
		info->flags |= UBD_SLOT_DIRTY;
	if (slot->flags & UBD_SL_FILE) {
		info->flags |= UBD_SLOT_FILE;
		info->ino = file_inode(slot->file)->i_ino;
		dev = file_inode(slot->file)->i_sb->s_dev;
	} else {
		dev = slot->bdev->bd_dev;
	}
	info->dev = (u64)MAJOR(dev) << 32 | MINOR(dev);
}

/* Fills the caller's array as far as it goes, and list->nr with the count. */
int ubd_slot_list(struct ubd_device *ub, struct ubd_slot_list *list)
{
	struct ubd_slot_info __user *out = u64_to_user_ptr(list->addr);
	struct ubd_slot_info info;
	u32 nr, used = 0;

	for (nr = 0; nr < UBD_MAX_SLOTS; nr++) {
		bool there;

		mutex_lock(&ub->slot_mutex);
		there = ub->slots[nr].file;
		if (there)
			ubd_slot_fill(&info, nr, &ub->slots[nr]);
		mutex_unlock(&ub->slot_mutex);
		if (!there)
			continue;
		if (used < list->nr &&
		    copy_to_user(&out[used], &info, sizeof(info)))
			return -EFAULT;
		used++;
	}
	list->nr = used;
	return 0;
}

/* Called under ub->mutex by START. */
void ubd_slots_stack(struct ubd_device *ub, struct queue_limits *lim)
{
	struct queue_limits file_lim;
	struct ubd_slot *slot;
	u32 nr;

	mutex_lock(&ub->slot_mutex);
	for (nr = 0; nr < UBD_MAX_SLOTS; nr++) {
		slot = &ub->slots[nr];
		if (!(slot->flags & UBD_SL_LIVE))
			continue;
		if (slot->bdev) {
			queue_limits_stack_bdev(lim, slot->bdev, slot->base,
						"ubd");
		} else {
			ubd_file_limits_set(&file_lim,
				(slot->block_mask + 1) << SECTOR_SHIFT,
				slot->dma_mask);
			blk_stack_limits(lim, &file_lim, 0);
		}
	}
	mutex_unlock(&ub->slot_mutex);
}
