// SPDX-License-Identifier: GPL-2.0
/*
 * The front disk: what the user sees. Bio based; every bio is shown to the
 * bound program and leaves in one of five ways:
 *
 *	BACKING  to a block device, in place or as a tracked clone; or to a file
 *	ZERO	 answered here
 *	ERROR	 answered here
 *	DECLINE  in place to the hidden disk, which feeds the daemon
 *	split	 the first part one of the above, the rest comes back here
 *
 * Nothing on this path takes a lock or allocates, but for a split. A bio sent
 * on in place may still wait on current->bio_list after we have returned, so
 * whatever it points to lives until the front has no openers.
 */
#include <linux/bio.h>

#include "ubd.h"
#include "count.h"
#include "track.h"
#include "verdict.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Hand a bio to the daemon. */
static noinline void ubd_decline(struct ubd_device *ub, struct bio *bio,
				 int idx)
{
	/* Who would poll has no tag to poll for. */
	bio->bi_opf &= ~REQ_POLLED;
	if (unlikely(READ_ONCE(ub->fail_declined))) {
		ubd_count_io(ub, bio, bio_sectors(bio), idx, UBD_N_DECLINED,
			     false);
		bio_io_error(bio);
		return;
	}
	/* Before the write can be acknowledged, hence before its flush. */
	if (idx != UBD_IDX_READ && !ub->daemon_dirty)
		WRITE_ONCE(ub->daemon_dirty, true);
	ubd_count_io(ub, bio, bio_sectors(bio), idx, UBD_N_DECLINED, false);
	/* As long as the front, whose end has been checked. */
	ubd_bio_set_dev(bio, ub->hidden_bdev, true);
	submit_bio_noacct(bio);
}

/* The rest of a bio that a file slot could not serve; process context. */
void ubd_decline_rest(struct ubd_device *ub, struct bio *bio)
{
	ubd_decline(ub, bio, ubd_op_index(bio_op(bio)));
}

/* Could this block device do the operation in place right now? */
bool ubd_bdev_can(struct block_device *bdev, int idx)
{
	if (bdev_read_only(bdev))
		return false;
	switch (idx) {
	case UBD_IDX_WRITE:
		return true;
	case UBD_IDX_DISCARD:
		return bdev_max_discard_sectors(bdev);
	case UBD_IDX_WRITE_ZEROES:
		return bdev_write_zeroes_sectors(bdev);
	default:
		return false;
	}
}

/* Where a mapped bio goes, and the epoch in which it is counted. */
struct ubd_place {
	struct ubd_slot *slot;
	unsigned int flags;	/* of the slot, when it was looked at */
	int epoch;		/* or UBD_UNTRACKED */
};

/* Make it a bio of the slot's block device. */
static __always_inline void ubd_rewrite(struct ubd_device *ub, struct bio *bio,
					struct ubd_slot *slot,
					unsigned int flags,
					const struct ubd_bpf_io *io,
					unsigned int idx)
{
	struct block_device *bdev = slot->bdev;
	u64 sector = slot->base + io->map_sector;
	unsigned int nr = io->map_sectors;

	ubd_count_io(ub, bio, nr, idx, UBD_N_MAPPED, true);
	/* Only a tagged bio can be polled for, and the tag is the slot's. */
	bio->bi_opf &= ~REQ_POLLED;
	bio->bi_iter.bi_sector = sector;
	/*
	 * The window check stands in for the core's check of the end of the
	 * device, unless that has shrunk since.
	 */
	ubd_bio_set_dev(bio, bdev, flags & UBD_SL_WHOLE &&
			likely(sector + nr <= bdev_nr_sectors(bdev)));
}

/* Files have their iostat done where the bio ends. */
static __always_inline void ubd_map_file(struct ubd_device *ub, struct bio *bio,
					 struct ubd_slot *slot,
					 unsigned int flags,
					 const struct ubd_bpf_io *io,
					 unsigned int idx, int epoch)
{
	ubd_count_io(ub, bio, io->map_sectors, idx, UBD_N_MAPPED, false);
	ubd_file_submit(ub, slot, flags, bio, slot->base + io->map_sector,
			epoch);
}

static void ubd_map(struct ubd_device *ub, struct bio *bio,
		    const struct ubd_place *to, const struct ubd_bpf_io *io)
{
	struct ubd_slot *slot = to->slot;
	u64 sector = slot->base + io->map_sector;
	unsigned int nr = io->map_sectors;
	int idx = io->op;

	if (idx != UBD_IDX_READ) {
		if (!(to->flags & UBD_SL_FILE) &&
		    unlikely(!ubd_bdev_can(slot->bdev, idx))) {
			ubd_track_end(ub, to->epoch);
			return ubd_decline(ub, bio, idx);
		}
		/* Before it is issued: see struct ubd_slot. */
		if (!READ_ONCE(slot->dirty))
			WRITE_ONCE(slot->dirty, true);
	}
	if (to->flags & UBD_SL_FILE) {
		ubd_map_file(ub, bio, slot, to->flags, io, idx, to->epoch);
		return;
	}
	if (to->epoch != UBD_UNTRACKED) {
		ubd_count_io(ub, bio, nr, idx, UBD_N_MAPPED, false);
		ubd_track_submit(ub, slot, bio, sector, to->epoch);
		return;
	}
	ubd_rewrite(ub, bio, slot, to->flags, io, idx);
	submit_bio_noacct(bio);
}

/*
 * What to do with an answer; io->map_sectors says for how much of the bio. A
 * bad one is reported and declined whole, whatever length it claims. In the RCU
 * section of the question.
 */
static noinline int ubd_judge(struct ubd_device *ub, struct ubd_binding *bind,
			      struct ubd_bpf_ops *ops, struct ubd_bpf_io *io,
			      int verdict, struct ubd_place *to)
{
	enum ubd_bad bad;

	bad = ubd_check_verdict(verdict, io, ops->flags, ub->block_mask);
	if (!bad && verdict == UBD_MAP_BACKING) {
		to->slot = &ub->slots[io->slot & (UBD_MAX_SLOTS - 1)];
		to->flags = smp_load_acquire(&to->slot->flags);
		/* Gone, not wrong: whoever unregistered it knows. */
		if (!(to->flags & UBD_SL_LIVE))
			verdict = UBD_MAP_DECLINE;
		else
			bad = ubd_check_slot(to->slot, to->flags, io, io->op);
	}
	trace_ubd_verdict(io, verdict, bad);
	if (unlikely(bad)) {
		ubd_count(ub, op[io->op][UBD_N_BAD]);
		ubd_bad_verdict(bind->prog, ops, io, verdict, bad);
		io->map_sectors = io->nr_sectors;
		verdict = UBD_MAP_DECLINE;
	}
	if (to->epoch != UBD_UNTRACKED && verdict == UBD_MAP_BACKING)
		ubd_track_get(ub, to->epoch);
	return verdict;
}

/*
 * The common answer, which is followed at once: a whole read or write, for a
 * whole disk or a file. It passes the same checks as any other. A slot's first
 * write is not one: it has a mark to set.
 */
static __always_inline bool ubd_is_plain(struct ubd_device *ub,
					 const struct ubd_bpf_io *io, int idx,
					 struct ubd_place *to)
{
	struct ubd_slot *slot;

	if (unlikely(io->map_sectors != io->nr_sectors) ||
	    ubd_check_verdict(UBD_MAP_BACKING, io, 0, ub->block_mask))
		return false;
	slot = &ub->slots[io->slot & (UBD_MAX_SLOTS - 1)];
	to->slot = slot;
	to->flags = smp_load_acquire(&slot->flags);
	if (unlikely(!(to->flags & UBD_SL_LIVE)) ||
	    unlikely(!(to->flags & (UBD_SL_WHOLE | UBD_SL_FILE))) ||
	    ubd_check_slot(slot, to->flags, io, idx))
		return false;
	if (idx == UBD_IDX_READ)
		return true;
	return likely(idx == UBD_IDX_WRITE) && likely(READ_ONCE(slot->dirty)) &&
	       (to->flags & UBD_SL_FILE ||
		likely(!get_disk_ro(slot->bdev->bd_disk)));
}

/*
 * Cut the first @sectors off @bio and send the rest back to the front. One
 * split per call: more from the same pool could wait for each other.
 */
static struct bio *ubd_split(struct ubd_device *ub, struct bio *bio,
			     unsigned int sectors)
{
	struct bio *first;

	if (bio->bi_opf & REQ_NOWAIT) {
		ubd_count(ub, eagain);
		bio_wouldblock_error(bio);
		return NULL;
	}
	bio->bi_opf &= ~REQ_POLLED;
	first = ubd_bio_split(bio, sectors, &ub->split_bs);
	if (!first) {
		bio_io_error(bio);
		return NULL;
	}
	ubd_count(ub, splits);
	bio_chain(first, bio);
	submit_bio_noacct(bio);
	return first;
}

/* Whatever is not plain. */
static noinline void ubd_follow(struct ubd_device *ub, struct bio *bio,
				int verdict, const struct ubd_place *to,
				const struct ubd_bpf_io *io)
{
	int idx = io->op;

	if (io->map_sectors < io->nr_sectors) {
		bio = ubd_split(ub, bio, io->map_sectors);
		if (!bio) {
			if (verdict == UBD_MAP_BACKING)
				ubd_track_end(ub, to->epoch);
			return;
		}
	}

	if (verdict == UBD_MAP_BACKING) {
		ubd_map(ub, bio, to, io);
	} else if (verdict == UBD_MAP_DECLINE) {
		ubd_decline(ub, bio, idx);
	} else if (verdict == UBD_MAP_ZERO) {
		ubd_count_io(ub, bio, io->map_sectors, idx, UBD_N_ZERO, true);
		if (idx == UBD_IDX_READ)
			ubd_zero_fill_bio(bio);
		bio_endio(bio);
	} else {
		ubd_count(ub, op[idx][UBD_N_ERROR]);
		bio->bi_status = errno_to_blk_status(verdict);
		bio_endio(bio);
	}
}

/*
 * Ask the program and do what it says. True: the bio is another disk's by now,
 * and to be submitted.
 */
static __always_inline bool ubd_ask(struct ubd_device *ub, struct bio *bio,
				    int idx, u32 flags)
{
	/* Each field is set before anybody reads it. */
	struct ubd_bpf_io io __uninitialized;
	struct ubd_place to __uninitialized;
	struct ubd_place plain __uninitialized;
	struct ubd_binding *bind;
	struct ubd_bpf_ops *ops;
	int verdict;

	/*
	 * Programs are freed only after a grace period: nothing else is held.
	 * The sched flavour, which the same grace periods wait for, costs a
	 * tenth of the other on a preemptible kernel. In it no spinlock is taken,
	 * which might sleep (PREEMPT_RT), but raw ones.
	 */
	rcu_read_lock_sched();
	bind = rcu_dereference_sched(ub->bind);
	if (!bind)
		goto decline;
	ops = rcu_dereference_sched(bind->prog->ops);
	if (unlikely(!ops))
		goto decline;
	if (unlikely(idx > UBD_IDX_WRITE) &&
	    !(ops->flags & UBD_OPS_WANT_DISCARD))
		goto decline;

	io.sector = bio->bi_iter.bi_sector;
	io.cookie = bind->cookie;
	io.nr_sectors = bio_sectors(bio);
	io.dev_id = ub->id;
	io.op = idx;
	io.flags = flags;
	io.nr_slots = READ_ONCE(ub->nr_slots);
	io.slot = 0;
	io.map_sector = 0;
	io.map_sectors = io.nr_sectors;
	io.reserved = 0;
	to.epoch = UBD_UNTRACKED;
	if (unlikely(ops->flags & UBD_OPS_TRACKED))
		to.epoch = ubd_track_epoch(ub);
	verdict = ops->map(&io);

	if (likely(verdict == UBD_MAP_BACKING) &&
	    likely(to.epoch == UBD_UNTRACKED) &&
	    likely(ubd_is_plain(ub, &io, idx, &plain))) {
		trace_ubd_verdict(&io, UBD_MAP_BACKING, UBD_GOOD);
		rcu_read_unlock_sched();
		if (likely(plain.flags & UBD_SL_WHOLE)) {
			ubd_rewrite(ub, bio, plain.slot, plain.flags, &io, idx);
			return true;
		}
		ubd_map_file(ub, bio, plain.slot, plain.flags, &io, idx,
			     UBD_UNTRACKED);
		return false;
	}
	verdict = ubd_judge(ub, bind, ops, &io, verdict, &to);
	rcu_read_unlock_sched();
	ubd_follow(ub, bio, verdict, &to, &io);
	return false;
decline:
	rcu_read_unlock_sched();
	ubd_decline(ub, bio, idx);
	return false;
}

/* No canary: there is no array here, and the verifier checks each store. */
static void __no_stack_protector ubd_submit_bio(struct bio *bio)
{
	struct ubd_device *ub = bio->bi_bdev->bd_disk->private_data;
	int idx = bio_op(bio);		/* of reads and writes it is the index */
	u32 flags = 0;

	if (unlikely(idx > UBD_IDX_WRITE))
		idx = ubd_op_index(idx);
	if (unlikely(bio->bi_opf & (REQ_PREFLUSH | UBD_OPF_SHOWN))) {
		if (bio->bi_opf & REQ_PREFLUSH && ubd_flush_bio(ub, bio))
			return;
		flags = ubd_io_flags(bio->bi_opf);
	}
	if (unlikely(idx < 0 || !bio_sectors(bio))) {
		bio->bi_status = BLK_STS_NOTSUPP;
		bio_endio(bio);
		return;
	}
	if (likely(ubd_ask(ub, bio, idx, flags)))
		submit_bio_noacct(bio);
}

static int ubd_front_open(struct gendisk *disk, blk_mode_t mode)
{
	return ubd_check_open(disk->private_data);
}

/* Runs at every close, under open_mutex; only the last one matters. */
static void ubd_front_release(struct gendisk *disk)
{
	struct ubd_device *ub = disk->private_data;

	if (!disk_openers(disk))
		ubd_slots_release(ub, false, false);
}

static void ubd_front_free(struct gendisk *disk)
{
	ubd_front_gone(disk->private_data);
}

const struct block_device_operations ubd_front_fops = {
	.owner		= THIS_MODULE,
	.submit_bio	= ubd_submit_bio,
	.open		= ubd_front_open,
	.release	= ubd_front_release,
	.free_disk	= ubd_front_free,
};

/*
 * The front's limits: the hidden disk's, stacked with those of every slot that
 * is registered by now.
 */
void ubd_front_limits(struct ubd_device *ub, struct queue_limits *lim,
		      struct queue_limits *hidden)
{
	blk_set_stacking_limits(lim);
	/* Without NOWAIT io_uring would punt every io to a worker. */
	lim->features |= BLK_FEAT_NOWAIT;
	blk_stack_limits(lim, hidden, 0);
	ubd_slots_stack(ub, lim);

	/*
	 * Always a write cache with FUA, or the core strips the flushes that
	 * the slots need before we see them.
	 */
	lim->features |= BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA |
			 BLK_FEAT_IO_STAT;
	lim->features &= ~(BLK_FEAT_ZONED | BLK_FEAT_POLL);
	/* Discards decline unless the program asks: what the daemon can do. */
	lim->max_hw_discard_sectors = hidden->max_hw_discard_sectors;
	lim->discard_granularity = hidden->discard_granularity;
	lim->max_discard_segments = 1;
	lim->max_write_zeroes_sectors = hidden->max_write_zeroes_sectors;
	lim->max_secure_erase_sectors = 0;
	lim->max_zone_append_sectors = 0;
}
