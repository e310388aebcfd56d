// SPDX-License-Identifier: GPL-2.0
/*
 * Regular files as backing. A bio becomes a kiocb, issued
 *
 *	by the submitter	inline.c; nothing may be waited for
 *	by the issuer		a thread; nothing may be waited for, in batches
 *	by a waiter		a thread; may block
 *
 * What one of the first two cannot do, or does in part, ends at a waiter, whose
 * answer counts.
 */
#include <linux/blk-cgroup.h>
#include <linux/cred.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include "count.h"
#include "file.h"
#include "track.h"

/* How long nothing is tried after an attempt has failed. */
#define UBD_BACKOFF	max(HZ / 100, 1)

/* Limits of a file with this block size and memory alignment, in bytes. */
void ubd_file_limits_set(struct queue_limits *lim, unsigned int block,
			 unsigned int dma_mask)
{
	blk_set_stacking_limits(lim);
	lim->features |= BLK_FEAT_NOWAIT;	/* the worker blocks, not you */
	lim->logical_block_size = block;
	lim->physical_block_size = block;
	lim->io_min = block;
	lim->dma_alignment = dma_mask;
}

/* What direct I/O on this file asks of the front's limits. */
int ubd_file_limits(struct file *file, struct queue_limits *lim)
{
	struct block_device *bdev = file_inode(file)->i_sb->s_bdev;
	unsigned int block = SECTOR_SIZE;
	struct kstat stat;
	int ret;

	ubd_file_limits_set(lim, block, block - 1);
	if (!(file->f_flags & O_DIRECT))
		return 0;
	if (!(file->f_mode & FMODE_CAN_ODIRECT))
		return -EINVAL;
	ret = vfs_getattr(&file->f_path, &stat, STATX_DIOALIGN, 0);
	if (ret)
		return ret;
	if (stat.result_mask & STATX_DIOALIGN) {
		if (!stat.dio_offset_align)
			return -EINVAL;
		block = max_t(u32, block, stat.dio_offset_align);
		ubd_file_limits_set(lim, block,
				    max_t(u32, stat.dio_mem_align, 1) - 1);
	} else if (bdev) {
		block = bdev_logical_block_size(bdev);
		ubd_file_limits_set(lim, block, block - 1);
	}
	return 0;
}

/* Does the file still reach that far? */
static bool ubd_is_within(const struct ubd_slot *slot, struct bio *bio,
			  loff_t pos)
{
	return pos + bio->bi_iter.bi_size <= i_size_read(file_inode(slot->file));
}

static void ubd_fio_end(struct ubd_fio *fio, blk_status_t status)
{
	struct ubd_device *ub = fio->ub;
	struct bio *bio = fio->bio;

	if (fio->acct)
		ubd_acct_finish(bio->bi_bdev, bio_op(bio), fio->sectors,
				fio->start);
	ubd_track_end(ub, fio->epoch);
	ubd_fio_free(ub, fio);
	if (status)
		bio->bi_status = status;
	bio_endio(bio);
}

static void ubd_fio_decline_fn(struct work_struct *work)
{
	struct ubd_fio *fio = container_of(work, struct ubd_fio, decline);
	struct ubd_device *ub = fio->ub;
	struct bio *bio = fio->bio;

	if (fio->acct)
		ubd_acct_finish(bio->bi_bdev, bio_op(bio), 0, fio->start);
	ubd_fio_free(ub, fio);
	ubd_decline_rest(ub, bio);
}

/* The file cannot: let the daemon try the rest, once. */
static void ubd_fio_decline(struct ubd_fio *fio)
{
	/* Not to be waited for: a fence may be what keeps the daemon busy. */
	ubd_track_end(fio->ub, fio->epoch);
	fio->epoch = UBD_UNTRACKED;
	INIT_WORK(&fio->decline, ubd_fio_decline_fn);
	queue_work(fio->ub->wq, &fio->decline);
}

static bool ubd_is_read(const struct ubd_fio *fio)
{
	return bio_op(fio->bio) == REQ_OP_READ;
}

/* No stale memory for the reader. */
static void ubd_fio_fail(struct ubd_fio *fio, long ret)
{
	if (ubd_is_read(fio))
		ubd_zero_fill_bio(fio->bio);
	ubd_fio_end(fio, errno_to_blk_status(ret));
}

/*
 * The file has no room, cannot do it, or ends before. The daemon may try, once,
 * unless it was the daemon who said that it should go here: that is told what
 * happened.
 */
static void ubd_fio_cannot(struct ubd_fio *fio, long ret)
{
	if (fio->epoch == UBD_FORWARDED)
		ubd_fio_fail(fio, ret);
	else
		ubd_fio_decline(fio);
}

static void ubd_fio_issue(struct ubd_work *work);

/* To a thread that may wait. */
static void ubd_fio_wait(struct ubd_fio *fio)
{
	fio->nowait = false;
	fio->work.fn = ubd_fio_issue;
	ubd_worker_queue(&fio->ub->worker, &fio->work,
			 ubd_is_read(fio) ? UBD_READ : UBD_WRITE);
}

/*
 * Go on where it stopped, at a block: a file that was cut ends anywhere, but
 * nothing goes on within a block past the page cache, and the daemon, which may
 * get what is left, counts in sectors.
 */
static void ubd_fio_short(struct ubd_fio *fio, unsigned int done)
{
	done = round_down(done, (fio->ub->block_mask + 1) << SECTOR_SHIFT);
	if (!done && !fio->nowait) {
		ubd_fio_cannot(fio, -EIO);
		return;
	}
	bio_advance(fio->bio, done);
	fio->pos += done;
	ubd_fio_wait(fio);
}

/* The answer of the file system; any context. */
static void ubd_fio_done(struct ubd_fio *fio, long ret)
{
	struct bio *bio = fio->bio;

	if (ret == bio->bi_iter.bi_size) {
		ubd_fio_end(fio, BLK_STS_OK);
	} else if (ret > 0 && ret < bio->bi_iter.bi_size) {
		ubd_fio_short(fio, ret);
	} else if (fio->nowait) {
		/* Of an attempt no failure counts. */
		if (ret == -EAGAIN)
			ubd_count(fio->ub, inline_eagain);
		WRITE_ONCE(fio->slot->failed[!ubd_is_read(fio)], jiffies);
		ubd_fio_wait(fio);
	} else if (ret == -ENOSPC || ret == -EOPNOTSUPP) {
		ubd_fio_cannot(fio, ret);
	} else {
		/* Also when the file ends under us. */
		ubd_fio_fail(fio, -EIO);
	}
}

static void ubd_fio_finish(struct ubd_fio *fio)
{
	/* Set once freezing is held off; see ubd_fio_rw(). */
	if (fio->iocb.ki_flags & IOCB_WRITE)
		kiocb_end_write(&fio->iocb);
	ubd_fio_done(fio, fio->ret);
}

/*
 * The I/O has ended, or the call that began it has returned: the second of the
 * two goes on. A file system still uses the kiocb, the file and the inode after
 * it has queued the I/O, and it is the upper bio that keeps these alive.
 */
static void ubd_fio_put(struct ubd_fio *fio)
{
	if (atomic_dec_and_test(&fio->refs))
		ubd_fio_finish(fio);
}

static void ubd_fio_complete(struct kiocb *iocb, long ret)
{
	struct ubd_fio *fio = container_of(iocb, struct ubd_fio, iocb);

	fio->ret = ret;
	ubd_fio_put(fio);
}

/* @ret is what ubd_fio_rw() said; whatever surrounded the call is undone. */
void ubd_fio_returned(struct ubd_fio *fio, ssize_t ret)
{
	if (ret == -EIOCBQUEUED) {
		ubd_fio_put(fio);
	} else {
		fio->ret = ret;
		ubd_fio_finish(fio);
	}
}

/*
 * Count the bvecs by walking them: bi_vcnt is 0 in clones and ignores where
 * bi_iter has got to.
 */
static void ubd_bio_to_iter(struct bio *bio, struct iov_iter *iter)
{
	struct bvec_iter pos;
	struct bio_vec bv;
	unsigned int nr = 1;

	if (mp_bvec_iter_len(bio->bi_io_vec, bio->bi_iter) <
	    bio->bi_iter.bi_size) {
		nr = 0;
		bio_for_each_bvec(bv, bio, pos)
			nr++;
	}
	iov_iter_bvec(iter, bio_op(bio) == REQ_OP_WRITE ? ITER_SOURCE :
							  ITER_DEST,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), nr,
		      bio->bi_iter.bi_size);
	iter->iov_offset = ubd_bio_iov_offset(bio);
}

/* The times of a file that is written to are set once a second. */
static bool ubd_touch_is_due(const struct ubd_slot *slot)
{
	return time_after_eq(jiffies, READ_ONCE(slot->touched) + HZ);
}

/*
 * Set the times of a file that is opened not to do it. May wait for a journal;
 * false: the file system is frozen.
 */
bool ubd_file_touch(struct file *file)
{
	if (!file_start_write_trylock(file))
		return false;
	ubd_update_times(file);
	file_end_write(file);
	return true;
}

/* Hold off freezing until ubd_fio_finish(). */
static bool ubd_fio_start_write(struct ubd_fio *fio, bool nowait)
{
	struct super_block *sb = file_inode(fio->iocb.ki_filp)->i_sb;

	if (!nowait)
		sb_start_write(sb);
	else if (!sb_start_write_trylock(sb))
		return false;
	/* Lockdep must not miss it at our return: the end may be elsewhere. */
	__sb_writers_release(sb, SB_FREEZE_WRITE);
	return true;
}

/* What the file system says, for ubd_fio_returned(). */
ssize_t ubd_fio_rw(struct ubd_fio *fio, bool nowait)
{
	struct ubd_slot *slot = fio->slot;
	struct file *file = slot->file;
	struct kiocb *iocb = &fio->iocb;
	struct bio *bio = fio->bio;
	struct iov_iter iter __uninitialized;

	ubd_bio_to_iter(bio, &iter);
	atomic_set(&fio->refs, 2);
	*iocb = (struct kiocb) {
		.ki_filp	= file,
		.ki_flags	= file->f_iocb_flags,
		.ki_pos		= fio->pos,
		.ki_ioprio	= bio->bi_ioprio,
		.ki_complete	= ubd_fio_complete,
	};
	if (nowait)
		iocb->ki_flags |= IOCB_NOWAIT;
	if (ubd_is_read(fio))
		return file->f_op->read_iter(iocb, &iter);

	if (!ubd_fio_start_write(fio, nowait))
		return -EAGAIN;
	iocb->ki_flags |= IOCB_WRITE;
	if (bio->bi_opf & REQ_FUA)
		iocb->ki_flags |= IOCB_DSYNC;
	if (!nowait && ubd_touch_is_due(slot)) {
		WRITE_ONCE(slot->touched, jiffies);
		if (xchg(&slot->touch, false))
			ubd_update_times(file);
	}
	return file->f_op->write_iter(iocb, &iter);
}

/* Discard and write zeroes, as loop does them. */
static ssize_t ubd_fio_fallocate(struct ubd_fio *fio)
{
	struct bio *bio = fio->bio;
	int mode = FALLOC_FL_PUNCH_HOLE;
	int ret;

	fio->iocb.ki_flags = 0;		/* vfs_fallocate() sees to freezing */
	if (bio_op(bio) == REQ_OP_WRITE_ZEROES && bio->bi_opf & REQ_NOUNMAP)
		mode = FALLOC_FL_ZERO_RANGE;
	ret = vfs_fallocate(fio->slot->file, mode | FALLOC_FL_KEEP_SIZE,
			    fio->pos, bio->bi_iter.bi_size);
	if (!ret && bio->bi_opf & REQ_FUA)
		ret = vfs_fsync(fio->slot->file, 1);
	return ret ? ret : (ssize_t)bio->bi_iter.bi_size;
}

/*
 * Who registered the file writes it. A thread stays who it was for one bio,
 * since most often the next one asks for the same.
 */
static void ubd_become(const struct cred *cred)
{
	if (unlikely(current_cred() != cred))
		ubd_assume_cred(cred);
}

/* On a thread. */
static void ubd_fio_issue(struct ubd_work *work)
{
	struct ubd_fio *fio = container_of(work, struct ubd_fio, work);
	struct cgroup_subsys_state *css;
	struct bio *bio = fio->bio;
	ssize_t ret;

	/* A write beyond a truncated end would grow the file again. */
	if (!ubd_is_within(fio->slot, bio, fio->pos)) {
		ubd_fio_cannot(fio, -EIO);
		return;
	}
	ubd_become(fio->slot->cred);
	/* Who asked for it pays for it. */
	css = bio_blkcg_css(bio);
	if (css != blkcg_root_css)
		kthread_associate_blkcg(css);
	if (bio_op(bio) > REQ_OP_WRITE)
		ret = ubd_fio_fallocate(fio);
	else
		ret = ubd_fio_rw(fio, fio->nowait);
	if (css != blkcg_root_css)
		kthread_associate_blkcg(NULL);
	ubd_fio_returned(fio, ret);
}

static struct ubd_fio *ubd_fio_alloc(struct ubd_device *ub, struct bio *bio,
				     int epoch)
{
	bool nowait = bio->bi_opf & REQ_NOWAIT;
	struct ubd_fio *fio;

	/* The worker may wait, and nobody can poll for it. */
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	fio = ubd_fio_get(ub, nowait ? GFP_NOWAIT : GFP_NOIO,
			  epoch == UBD_FORWARDED);
	if (!fio) {
		ubd_count(ub, eagain);
		bio_wouldblock_error(bio);
	}
	return fio;
}

/* Is a kiocb worth a try that may not wait? */
static bool ubd_may_try(const struct ubd_slot *slot, unsigned int flags,
			struct bio *bio)
{
	bool write = bio_op(bio) != REQ_OP_READ;

	return flags & UBD_SL_NOWAIT && bio_op(bio) <= REQ_OP_WRITE &&
	       !(bio->bi_opf & REQ_FUA) && !(write && ubd_touch_is_due(slot)) &&
	       time_after(jiffies, READ_ONCE(slot->failed[write]) + UBD_BACKOFF);
}

/*
 * From the front, or a clone: @sector is in the file. Consumes the bio, and its
 * count if it is tracked. A clone is no bio of the front disk's: its request is
 * in the iostat there, and what is left of it cannot be declined, for that would
 * wait for a tag while it holds one.
 */
void ubd_file_submit(struct ubd_device *ub, struct ubd_slot *slot,
		     unsigned int flags, struct bio *bio, u64 sector, int epoch)
{
	struct ubd_fio *fio = ubd_fio_alloc(ub, bio, epoch);

	if (!fio) {
		ubd_track_end(ub, epoch);
		return;
	}
	fio->ub = ub;
	fio->slot = slot;
	fio->bio = bio;
	fio->pos = (loff_t)sector << SECTOR_SHIFT;
	fio->sectors = bio_sectors(bio);
	fio->epoch = epoch;
	fio->acct = epoch != UBD_FORWARDED &&
		    blk_queue_io_stat(bdev_get_queue(bio->bi_bdev));
	if (fio->acct)
		fio->start = ubd_acct_begin(bio->bi_bdev, bio_op(bio));
	if (epoch >= 0)
		ubd_count(ub, tracked);
	if (!ubd_is_read(fio) && !READ_ONCE(slot->touch))
		WRITE_ONCE(slot->touch, true);

	fio->nowait = ubd_may_try(slot, flags, bio);
	if (fio->nowait && (epoch == UBD_FORWARDED ?
			    ubd_may_inline_forward(bio) :
			    ubd_may_inline(ub, bio)) &&
	    ubd_is_within(slot, bio, fio->pos)) {
		ubd_count(ub, file_inline);
		ubd_fio_inline(fio);
		return;
	}
	ubd_count(ub, file_worker);
	if (!fio->nowait) {
		ubd_fio_wait(fio);
		return;
	}
	fio->work.fn = ubd_fio_issue;
	ubd_worker_quick(&ub->worker, &fio->work);
}
