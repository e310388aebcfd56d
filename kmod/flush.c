// SPDX-License-Identifier: GPL-2.0
/*
 * Flush: to the daemon first, which makes its metadata durable; then to every
 * slot ever written; then the data that came with it, if any, without the
 * PREFLUSH; then done. A PREFLUSH bio never goes in place with its data: it
 * would flush one slot and promise all.
 */
#include <linux/bio.h>
#include <linux/part_stat.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "ubd.h"

/* A flush in progress. */
struct ubd_flush {
	struct work_struct work;	/* may wait for a tag: on ub->wq */
	struct ubd_work file_work;	/* may wait for a file: on the worker */
	struct ubd_device *ub;
	struct bio *bio;		/* what asked for it */
	atomic_t pending;		/* parts that have not ended, plus one */
	blk_status_t status;		/* of the first part that failed */
};

#define UBD_FLUSH_RESERVE	4
static struct kmem_cache *ubd_flush_cache;

static void ubd_flush_resubmit(struct work_struct *work)
{
	struct ubd_flush *flush = container_of(work, struct ubd_flush, work);
	struct ubd_device *ub = flush->ub;
	struct bio *bio = flush->bio;

	mempool_free(flush, &ub->flush_pool);
	bio->bi_opf &= ~REQ_PREFLUSH;
	submit_bio_noacct(bio);
}

static void ubd_flush_put(struct ubd_flush *flush)
{
	struct ubd_device *ub = flush->ub;
	struct bio *bio = flush->bio;
	blk_status_t status;

	if (!atomic_dec_and_test(&flush->pending))
		return;
	status = READ_ONCE(flush->status);
	if (!status && bio_sectors(bio)) {
		INIT_WORK(&flush->work, ubd_flush_resubmit);
		queue_work(ub->wq, &flush->work);
		return;
	}
	mempool_free(flush, &ub->flush_pool);
	bio->bi_status = status;
	bio_endio(bio);
}

static void ubd_flush_fail(struct ubd_flush *flush, blk_status_t status)
{
	if (status)
		cmpxchg(&flush->status, BLK_STS_OK, status);
}

static void ubd_flush_end_slot(struct bio *part)
{
	struct ubd_flush *flush = part->bi_private;

	ubd_flush_fail(flush, part->bi_status);
	bio_put(part);
	ubd_flush_put(flush);
}

static struct bio *ubd_flush_alloc(struct ubd_flush *flush,
				   struct block_device *bdev,
				   bio_end_io_t end_io)
{
	struct bio *part;

	part = bio_alloc_bioset(bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC,
				GFP_NOIO, &flush->ub->flush_bs);
	part->bi_private = flush;
	part->bi_end_io = end_io;
	return part;
}

/* Flags of a slot that owes a flush, else 0. Also while it drains. */
static unsigned int ubd_flush_flags(struct ubd_slot *slot)
{
	unsigned int flags = smp_load_acquire(&slot->flags);

	return READ_ONCE(slot->dirty) ? flags : 0;
}

/* Files one after the other; worker context. */
static void ubd_flush_files(struct ubd_work *work)
{
	struct ubd_flush *flush = container_of(work, struct ubd_flush,
					       file_work);
	struct ubd_device *ub = flush->ub;
	struct ubd_slot *slot;
	u32 nr;

	for (nr = 0; nr < UBD_MAX_SLOTS; nr++) {
		slot = &ub->slots[nr];
		if (!(ubd_flush_flags(slot) & UBD_SL_FILE))
			continue;
		ubd_count(ub, flush_slots);
		/* A frozen file system gets its times later. */
		if (xchg(&slot->touch, false) && !ubd_file_touch(slot->file))
			WRITE_ONCE(slot->touch, true);
		ubd_flush_fail(flush,
			       errno_to_blk_status(vfs_fsync(slot->file, 1)));
	}
	ubd_flush_put(flush);
}

static void ubd_flush_slots(struct ubd_flush *flush)
{
	struct ubd_device *ub = flush->ub;
	struct ubd_slot *slot;
	bool files = false;
	u32 nr;

	for (nr = 0; nr < UBD_MAX_SLOTS; nr++) {
		unsigned int flags;

		slot = &ub->slots[nr];
		flags = ubd_flush_flags(slot);
		if (!flags)
			continue;
		if (flags & UBD_SL_FILE) {
			files = true;
			continue;
		}
		atomic_inc(&flush->pending);
		ubd_count(ub, flush_slots);
		submit_bio_noacct(ubd_flush_alloc(flush, slot->bdev,
						  ubd_flush_end_slot));
	}
	if (files) {
		atomic_inc(&flush->pending);
		flush->file_work.fn = ubd_flush_files;
		ubd_worker_queue(&ub->worker, &flush->file_work, UBD_WRITE);
	}
	ubd_flush_put(flush);
}

static void ubd_flush_slots_work(struct work_struct *work)
{
	ubd_flush_slots(container_of(work, struct ubd_flush, work));
}

/* The daemon has flushed; not in a context that may submit. */
static void ubd_flush_end_daemon(struct bio *part)
{
	struct ubd_flush *flush = part->bi_private;

	ubd_flush_fail(flush, part->bi_status);
	bio_put(part);
	INIT_WORK(&flush->work, ubd_flush_slots_work);
	queue_work(flush->ub->wq, &flush->work);
}

static void ubd_flush_daemon(struct work_struct *work)
{
	struct ubd_flush *flush = container_of(work, struct ubd_flush, work);
	struct bio *part;

	ubd_count(flush->ub, flush_daemon);
	part = ubd_flush_alloc(flush, flush->ub->hidden_bdev,
			       ubd_flush_end_daemon);
	if (READ_ONCE(flush->ub->fail_declined))
		bio_io_error(part);
	else
		submit_bio_noacct(part);
}

/* How many slots owe a flush, and one of them. */
static int ubd_flush_dirty(struct ubd_device *ub, struct ubd_slot **slot)
{
	u32 nr, nr_slots = READ_ONCE(ub->nr_slots);
	int dirty = 0;

	for (nr = 0; nr < nr_slots; nr++) {
		if (!ubd_flush_flags(&ub->slots[nr]))
			continue;
		*slot = &ub->slots[nr];
		dirty++;
	}
	return dirty;
}

/*
 * A bio with REQ_PREFLUSH. Returns false if nothing is owed and the bio has
 * data: then the caller goes on with it. Else the bio is consumed.
 */
bool ubd_flush_bio(struct ubd_device *ub, struct bio *bio)
{
	bool daemon = ub->daemon_flush && READ_ONCE(ub->daemon_dirty);
	struct ubd_slot *slot = NULL;
	struct ubd_flush *flush;
	int dirty;

	dirty = ubd_flush_dirty(ub, &slot);
	part_stat_lock();
	part_stat_inc(bio->bi_bdev, ios[STAT_FLUSH]);
	part_stat_unlock();
	if (daemon)
		ubd_count(ub, op[UBD_IDX_FLUSH][UBD_N_DECLINED]);
	else
		ubd_count(ub, op[UBD_IDX_FLUSH][UBD_N_MAPPED]);

	if (!daemon && !dirty) {
		bio->bi_opf &= ~REQ_PREFLUSH;
		if (bio_sectors(bio))
			return false;
		bio_endio(bio);
		return true;
	}
	/* An empty flush for one disk is that disk's flush. */
	if (!daemon && dirty == 1 && slot->bdev && !bio_sectors(bio)) {
		ubd_count(ub, flush_slots);
		bio_set_dev(bio, slot->bdev);
		submit_bio_noacct(bio);
		return true;
	}

	if (bio->bi_opf & REQ_NOWAIT) {
		ubd_count(ub, eagain);
		bio_wouldblock_error(bio);
		return true;
	}
	flush = mempool_alloc(&ub->flush_pool, GFP_NOIO);
	flush->ub = ub;
	flush->bio = bio;
	flush->status = BLK_STS_OK;
	atomic_set(&flush->pending, 1);
	/* Not from here: parts from one pool must not queue on our bio_list. */
	INIT_WORK(&flush->work, daemon ? ubd_flush_daemon :
					 ubd_flush_slots_work);
	queue_work(ub->wq, &flush->work);
	return true;
}

int ubd_flush_init_device(struct ubd_device *ub)
{
	return mempool_init_slab_pool(&ub->flush_pool, UBD_FLUSH_RESERVE,
				      ubd_flush_cache);
}

int ubd_flush_init(void)
{
	ubd_flush_cache = KMEM_CACHE(ubd_flush, 0);
	return ubd_flush_cache ? 0 : -ENOMEM;
}

void ubd_flush_exit(void)
{
	kmem_cache_destroy(ubd_flush_cache);
}
