// SPDX-License-Identifier: GPL-2.0
/*
 * Tracked mode and the fence, for programs whose maps move. A tracked bio is
 * counted from its verdict to its end, in one of two epochs. FENCE begins the
 * next epoch and waits until the count of the last one is zero.
 *
 *	submitter, in one RCU section	    daemon
 *	  epoch = ub->epoch (acquire)	      lock the map's entry
 *	  map() reads the entry		      FENCE: flip ub->epoch (release)
 *	  count[epoch]++			     synchronize_rcu()
 *	...				             wait for count[old] == 0
 *	  end of the bio: count[epoch]--      move the data, install
 *
 * Who read the old epoch has counted itself once the grace period is over; who
 * read the new one reads the entry after it was locked.
 */
#include <linux/bio.h>

#include "ubd.h"
#include "count.h"
#include "track.h"

/* A tracked bio on a block device: what was asked, and the clone below it. */
struct ubd_tracked {
	struct ubd_device *ub;
	struct bio *bio;
	unsigned long start;	/* for iostat */
	s8 epoch;
	bool acct;
	struct bio clone;	/* last: the bioset allocates what is before */
};

/* Bios that can be tracked when there is no memory at all. */
#define UBD_TRACK_RESERVE	16

/*
 * One RCU section, hence seen by a fence either as ended or as one to wait
 * for: it sets ub->fencing before its grace period and adds up after it. To
 * wake it takes a lock that may sleep (PREEMPT_RT), and is done outside.
 */
void ubd_track_put(struct ubd_device *ub, int epoch)
{
	bool fencing;

	preempt_disable();
	this_cpu_dec(ub->epochs->nr[epoch]);
	fencing = READ_ONCE(ub->fencing);
	preempt_enable();
	if (unlikely(fencing))
		wake_up(&ub->fence_wait);
}

static void ubd_track_endio(struct bio *clone)
{
	struct ubd_tracked *t = container_of(clone, struct ubd_tracked, clone);
	struct bio *bio = t->bio;

	if (clone->bi_status)
		bio->bi_status = clone->bi_status;
	if (t->acct)
		ubd_acct_finish(bio->bi_bdev, bio_op(bio), bio_sectors(bio),
				t->start);
	/* The device lives as long as the upper bio does. */
	ubd_track_put(t->ub, t->epoch);
	bio_put(clone);
	bio_endio(bio);
}

/* @sector is on the slot's device. Consumes the bio and its count. */
void ubd_track_submit(struct ubd_device *ub, struct ubd_slot *slot,
		      struct bio *bio, u64 sector, int epoch)
{
	const blk_opf_t cache = bio->bi_opf & REQ_ALLOC_CACHE;
	struct ubd_tracked *t;
	struct bio *clone;

	/* Asks for the per-CPU cache of our own bios, for this call. */
	bio->bi_opf |= REQ_ALLOC_CACHE;
	clone = bio_alloc_clone(slot->bdev, bio,
				bio->bi_opf & REQ_NOWAIT ? GFP_NOWAIT : GFP_NOIO,
				&ub->track_bs);
	bio->bi_opf &= cache | ~REQ_ALLOC_CACHE;
	if (unlikely(!clone)) {
		ubd_track_put(ub, epoch);
		if (bio->bi_opf & REQ_NOWAIT) {
			ubd_count(ub, eagain);
			bio_wouldblock_error(bio);
		} else {
			bio_io_error(bio);
		}
		return;
	}
	ubd_count(ub, tracked);
	t = container_of(clone, struct ubd_tracked, clone);
	t->ub = ub;
	t->bio = bio;
	t->epoch = epoch;
	t->acct = blk_queue_io_stat(bdev_get_queue(bio->bi_bdev));
	if (t->acct)
		t->start = ubd_acct_begin(bio->bi_bdev, bio_op(bio));
	clone->bi_opf &= ~REQ_POLLED;
	clone->bi_end_io = ubd_track_endio;
	clone->bi_iter.bi_sector = sector;
	submit_bio_noacct(clone);
}

/* Only of an epoch that nobody joins any more: then it can only go down. */
static long ubd_tracked_sum(struct ubd_device *ub, int epoch)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(ub->epochs, cpu)->nr[epoch]);
	return sum;
}

static int ubd_drain_epoch(struct ubd_device *ub, int epoch)
{
	synchronize_rcu_expedited();
	return wait_event_killable(ub->fence_wait,
				   !ubd_tracked_sum(ub, epoch));
}

/* Every tracked bio that began before has ended; -EINTR: killed meanwhile. */
int ubd_fence(struct ubd_device *ub)
{
	int old, ret;

	ret = mutex_lock_killable(&ub->fence_mutex);
	if (ret)
		return ret;
	old = ub->epoch;
	WRITE_ONCE(ub->fencing, true);
	/* Left behind by a fence that was killed? */
	if (ubd_tracked_sum(ub, !old))
		ret = ubd_drain_epoch(ub, !old);
	if (!ret) {
		smp_store_release(&ub->epoch, !old);
		ret = ubd_drain_epoch(ub, old);
	}
	WRITE_ONCE(ub->fencing, false);
	mutex_unlock(&ub->fence_mutex);
	if (!ret)
		ubd_count(ub, fences);
	return ret ? -EINTR : 0;
}

int ubd_track_init_device(struct ubd_device *ub)
{
	mutex_init(&ub->fence_mutex);
	init_waitqueue_head(&ub->fence_wait);
	ub->epochs = alloc_percpu(struct ubd_epochs);
	if (!ub->epochs)
		return -ENOMEM;
	return bioset_init(&ub->track_bs, UBD_TRACK_RESERVE,
			   offsetof(struct ubd_tracked, clone),
			   BIOSET_PERCPU_CACHE);
}

/* Also after ubd_track_init_device() failed, or was never called. */
void ubd_track_exit_device(struct ubd_device *ub)
{
	bioset_exit(&ub->track_bs);
	free_percpu(ub->epochs);
}
