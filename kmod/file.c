// SPDX-License-Identifier: GPL-2.0
/*
 * Regular files as backing. A bio becomes a kiocb, issued by a worker thread;
 * never by the submitter, whose stack, locks, limits and current->bio_list the
 * file system must not see.
 */
#include <linux/blk-cgroup.h>
#include <linux/cred.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include "ubd.h"

/* One bio on its way to a file. */
struct ubd_fio {
	union {
		struct ubd_work work;		/* to issue it, on the worker */
		struct work_struct decline;	/* may wait for a tag: ub->wq */
	};
	struct kiocb iocb;
	struct ubd_device *ub;
	struct ubd_slot *slot;
	struct bio *bio;
	loff_t pos;		/* where the rest of the bio goes */
	unsigned long start;	/* for iostat */
	unsigned int sectors;	/* of the whole bio */
	bool acct;
};

#define UBD_FIO_RESERVE	16
static struct kmem_cache *ubd_fio_cache;

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

static void ubd_fio_end(struct ubd_fio *fio, blk_status_t status)
{
	struct ubd_device *ub = fio->ub;
	struct bio *bio = fio->bio;

	if (fio->acct)
		bdev_end_io_acct(bio->bi_bdev, bio_op(bio), fio->sectors,
				 fio->start);
	mempool_free(fio, &ub->fio_pool);
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
		bdev_end_io_acct(bio->bi_bdev, bio_op(bio), 0, fio->start);
	mempool_free(fio, &ub->fio_pool);
	ubd_decline_rest(ub, bio);
}

/* The file cannot: let the daemon try the rest, once. */
static void ubd_fio_decline(struct ubd_fio *fio)
{
	INIT_WORK(&fio->decline, ubd_fio_decline_fn);
	queue_work(fio->ub->wq, &fio->decline);
}

static void ubd_fio_issue(struct ubd_work *work);

static void ubd_fio_queue(struct ubd_fio *fio)
{
	fio->work.fn = ubd_fio_issue;
	ubd_worker_queue(&fio->ub->worker, &fio->work,
			 bio_op(fio->bio) == REQ_OP_READ);
}

/* The answer of the file system; any context. */
static void ubd_fio_done(struct ubd_fio *fio, long ret)
{
	struct bio *bio = fio->bio;

	if (ret == bio->bi_iter.bi_size) {
		ubd_fio_end(fio, BLK_STS_OK);
	} else if (ret > 0 && ret < bio->bi_iter.bi_size) {
		/* Short: go on where it stopped. */
		bio_advance(bio, ret);
		fio->pos += ret;
		ubd_fio_queue(fio);
	} else if (ret == -ENOSPC || ret == -EOPNOTSUPP) {
		ubd_fio_decline(fio);
	} else {
		/* End of file under us: no stale memory for the reader. */
		if (bio_op(bio) == REQ_OP_READ)
			ubd_zero_fill_bio(bio);
		ubd_fio_end(fio, BLK_STS_IOERR);
	}
}

static void ubd_fio_complete(struct kiocb *iocb, long ret)
{
	struct ubd_fio *fio = container_of(iocb, struct ubd_fio, iocb);

	if (bio_op(fio->bio) == REQ_OP_WRITE)
		kiocb_end_write(iocb);
	ubd_fio_done(fio, ret);
}

/*
 * Count the bvecs by walking them: bi_vcnt is 0 in clones and ignores where
 * bi_iter has got to.
 */
static void ubd_bio_to_iter(struct bio *bio, struct iov_iter *iter)
{
	struct bvec_iter pos;
	struct bio_vec bv;
	unsigned int nr = 0;

	bio_for_each_bvec(bv, bio, pos)
		nr++;
	iov_iter_bvec(iter, bio_op(bio) == REQ_OP_WRITE ? ITER_SOURCE :
							  ITER_DEST,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), nr,
		      bio->bi_iter.bi_size);
	iter->iov_offset = ubd_bio_iov_offset(bio);
}

static void ubd_fio_rw(struct ubd_fio *fio)
{
	struct file *file = fio->slot->file;
	struct kiocb *iocb = &fio->iocb;
	struct bio *bio = fio->bio;
	struct iov_iter iter;
	ssize_t ret;

	ubd_bio_to_iter(bio, &iter);
	init_sync_kiocb(iocb, file);
	iocb->ki_pos = fio->pos;
	iocb->ki_ioprio = bio->bi_ioprio;
	iocb->ki_complete = ubd_fio_complete;
	if (bio_op(bio) == REQ_OP_WRITE) {
		if (bio->bi_opf & REQ_FUA)
			iocb->ki_flags |= IOCB_DSYNC;
		iocb->ki_flags |= IOCB_WRITE;
		kiocb_start_write(iocb);
		ret = file->f_op->write_iter(iocb, &iter);
	} else {
		ret = file->f_op->read_iter(iocb, &iter);
	}
	if (ret != -EIOCBQUEUED)
		ubd_fio_complete(iocb, ret);
}

/* Discard and write zeroes, as loop does them. */
static void ubd_fio_fallocate(struct ubd_fio *fio)
{
	struct bio *bio = fio->bio;
	int mode = FALLOC_FL_PUNCH_HOLE;
	int ret;

	if (bio_op(bio) == REQ_OP_WRITE_ZEROES && bio->bi_opf & REQ_NOUNMAP)
		mode = FALLOC_FL_ZERO_RANGE;
	ret = vfs_fallocate(fio->slot->file, mode | FALLOC_FL_KEEP_SIZE,
			    fio->pos, bio->bi_iter.bi_size);
	if (!ret && bio->bi_opf & REQ_FUA)
		ret = vfs_fsync(fio->slot->file, 1);
	ubd_fio_done(fio, ret ? ret : (long)bio->bi_iter.bi_size);
}

static void ubd_fio_issue(struct ubd_work *work)
{
	struct ubd_fio *fio = container_of(work, struct ubd_fio, work);
	struct inode *inode = file_inode(fio->slot->file);
	const struct cred *old_cred;
	struct bio *bio = fio->bio;

	/* A write beyond a truncated end would grow the file again. */
	if (fio->pos + bio->bi_iter.bi_size > i_size_read(inode)) {
		ubd_fio_decline(fio);
		return;
	}
	/* Who registered the file writes it, who asked for it pays for it. */
	old_cred = override_creds(fio->slot->cred);
	kthread_associate_blkcg(bio_blkcg_css(bio));
	switch (bio_op(bio)) {
	case REQ_OP_READ:
	case REQ_OP_WRITE:
		ubd_fio_rw(fio);
		break;
	default:
		ubd_fio_fallocate(fio);
	}
	kthread_associate_blkcg(NULL);
	revert_creds(old_cred);
}

/* From the front: @sector is in the file. Consumes the bio. */
void ubd_file_submit(struct ubd_device *ub, struct ubd_slot *slot,
		     struct bio *bio, u64 sector)
{
	bool nowait = bio->bi_opf & REQ_NOWAIT;
	struct ubd_fio *fio;

	/* The worker may wait, and nobody can poll for it. */
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	fio = mempool_alloc(&ub->fio_pool, nowait ? GFP_NOWAIT : GFP_NOIO);
	if (!fio) {
		ubd_count(ub, eagain);
		bio_wouldblock_error(bio);
		return;
	}
	fio->ub = ub;
	fio->slot = slot;
	fio->bio = bio;
	fio->pos = (loff_t)sector << SECTOR_SHIFT;
	fio->sectors = bio_sectors(bio);
	fio->acct = blk_queue_io_stat(bdev_get_queue(bio->bi_bdev));
	if (fio->acct)
		fio->start = bio_start_io_acct(bio);
	ubd_count(ub, file_worker);
	ubd_fio_queue(fio);
}

int ubd_file_init_device(struct ubd_device *ub)
{
	return mempool_init_slab_pool(&ub->fio_pool, UBD_FIO_RESERVE,
				      ubd_fio_cache);
}

int ubd_file_init(void)
{
	ubd_fio_cache = KMEM_CACHE(ubd_fio, 0);
	return ubd_fio_cache ? 0 : -ENOMEM;
}

void ubd_file_exit(void)
{
	kmem_cache_destroy(ubd_fio_cache);
}
