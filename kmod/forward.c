// SPDX-License-Identifier: GPL-2.0
/*
 * FORWARD: the server says where a request's data lies, and the driver does the
 * I/O there, on clones of the request's bios. The request leaves the server
 * before the first clone goes out:
 *
 *	SERVER --- FORWARD ---> the command waits for the tag's next request
 *	                        the request is in no tag's hands until its clones
 *	                        have ended: no cancel, STOP or recovery finds it
 *
 * It still has its tag of the hidden disk, whose deletion waits for that: so
 * STOP waits for forwarded I/O, and a server's death changes nothing for it.
 *
 * Slots live as long as the front has openers, or somebody holds its open_mutex.
 * A request consists of bios of the front that have not ended; those are an
 * opener's (whose last close waits for its cached pages, under open_mutex, and
 * who had to wait for direct I/O before) or the partition scan's (which waits
 * for them under open_mutex). So a slot that was live when the server named it
 * is there until the request ends, and the front's struct, the hidden disk and
 * the device are, too.
 */
#include <linux/bio.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/mm.h>
#include <linux/uaccess.h>

#include "ubd.h"
#include "channel.h"
#include "track.h"
#include "verdict.h"

/* Merged requests that can be cloned when there is no memory at all. */
#define UBD_FORWARD_RESERVE	16

/* What the server asks for, read once, and what was found out about it. */
struct ubd_forward_to {
	u32 nr;				/* of the slot */
	u64 sector;			/* in the slot */
	u32 sectors;			/* 0: all */
	struct ubd_slot *slot;
	unsigned int flags;		/* of the slot, when it was looked at */
	struct page *page;		/* of the word to install, or NULL */
	struct ubd_install word;
};

static struct ubd_forwarding *ubd_forwarding(struct request *rq)
{
	return &ubd_rq(rq)->fwd;
}

/* ---- the word that is installed ---- */

/*
 * Pin the word's page. What is pinned stays the page that the server sees at
 * this address; where it does not (it has unmapped it), nobody is harmed.
 */
static int ubd_forward_pin(struct ubd_forward_to *to, u64 addr)
{
	struct ubd_install *word = &to->word;

	if (copy_from_user(word, u64_to_user_ptr(addr), sizeof(*word)))
		return -EFAULT;
	if (!IS_ALIGNED(word->addr, sizeof(u64)))
		return -EINVAL;
	if (!access_ok(u64_to_user_ptr(word->addr), sizeof(u64)) ||
	    pin_user_pages_fast(word->addr & PAGE_MASK, 1, FOLL_WRITE,
				&to->page) != 1)
		return -EFAULT;
	return 0;
}

static void ubd_forward_install(struct ubd_forwarding *fwd)
{
	u64 *word = kmap_local_page(fwd->page) + offset_in_page(fwd->word.addr);

	cmpxchg64(word, fwd->word.expect, fwd->word.value);
	kunmap_local(word);
}

/* ---- the end ---- */

static void ubd_forward_finish(struct request *rq)
{
	struct ubd_forwarding *fwd = ubd_forwarding(rq);
	blk_status_t status = fwd->status;

	if (unlikely(status))
		status = ubd_final_status(rq, status);
	/* As if the server had said so now: somebody may still borrow it. */
	ubd_commit_request(rq->mq_hctx->driver_data, rq, fwd->bytes, status);
}

/* Pages of files are marked dirty under their lock: where we may sleep. */
static void ubd_forward_work(struct work_struct *work)
{
	struct ubd_forwarding *fwd = container_of(work, struct ubd_forwarding,
						  work);
	bool install = !fwd->status;

	if (install)
		ubd_forward_install(fwd);
	unpin_user_pages_dirty_lock(&fwd->page, 1, install);
	ubd_forward_finish(blk_mq_rq_from_pdu(container_of(fwd, struct ubd_rq,
							   fwd)));
}

/* All parts have ended; any context. @rq is gone afterwards. */
static void ubd_forward_done(struct request *rq)
{
	struct ubd_forwarding *fwd = ubd_forwarding(rq);
	struct ubd_device *ub = rq->q->queuedata;

	if (likely(!fwd->page)) {
		ubd_forward_finish(rq);
		return;
	}
	INIT_WORK(&fwd->work, ubd_forward_work);
	queue_work(ub->end_wq, &fwd->work);
}

static bool ubd_forward_is_last(struct request *rq)
{
	return atomic_dec_and_test(&ubd_forwarding(rq)->pending);
}

static void ubd_forward_endio(struct bio *clone)
{
	struct request *rq = clone->bi_private;
	struct ubd_forwarding *fwd = ubd_forwarding(rq);
	blk_status_t status = clone->bi_status;

	if (likely(clone == &fwd->clone))
		bio_uninit(clone);
	else
		bio_put(clone);
	if (unlikely(status))
		cmpxchg(&fwd->status, BLK_STS_OK, status);
	if (ubd_forward_is_last(rq))
		ubd_forward_done(rq);
}

/*
 * A disk may do its I/O at once, while the server is still submitting further
 * commands. Whoever waited for it is woken by its end, and where CPUs are few
 * takes ours: for each request of a batch anew. So the requests that end like
 * that end together, when io_uring has submitted the batch, or when we have to
 * wait.
 */
struct ubd_forward_plug {
	struct blk_plug_cb cb;
	struct request *first;
	struct request *last;
};

static void ubd_forward_unplug(struct blk_plug_cb *cb, bool from_schedule)
{
	struct ubd_forward_plug *plug = container_of(cb, struct ubd_forward_plug,
						     cb);
	struct request *rq;

	/*
	 * Nor is the CPU taken in between, on a preemptible kernel. The last of
	 * the requests may be what kept the module: its exit waits for RCU.
	 */
	rcu_read_lock();
	local_bh_disable();
	while ((rq = plug->first)) {
		plug->first = ubd_forwarding(rq)->next;
		ubd_forward_done(rq);
	}
	kfree(plug);
	local_bh_enable();
	rcu_read_unlock();
}

/* The part of who issues the clones, in the server. */
static void ubd_forward_put(struct request *rq)
{
	struct ubd_forward_plug *plug;
	struct blk_plug_cb *cb;

	if (!ubd_forward_is_last(rq))
		return;
	cb = blk_check_plugged(ubd_forward_unplug, NULL, sizeof(*plug));
	if (!cb) {
		ubd_forward_done(rq);
		return;
	}
	plug = container_of(cb, struct ubd_forward_plug, cb);
	ubd_forwarding(rq)->next = NULL;
	if (plug->first)
		ubd_forwarding(plug->last)->next = rq;
	else
		plug->first = rq;
	plug->last = rq;
}

/* ---- the beginning ---- */

/* May the server have this? Nothing is changed; io->lock is held. */
static int ubd_forward_check(struct ubd_device *ub, struct request *rq,
			     struct ubd_forward_to *to)
{
	int idx = ubd_op_index(req_op(rq));
	struct ubd_bpf_io io = { .map_sector = to->sector };

	if (!to->sectors)
		to->sectors = blk_rq_sectors(rq);
	io.map_sectors = to->sectors;
	/* A flush has no sectors, and fails this one, too. */
	if (to->sectors - 1 >= blk_rq_sectors(rq) ||
	    to->sectors & ub->block_mask || to->nr >= UBD_MAX_SLOTS)
		return -EINVAL;
	to->slot = &ub->slots[array_index_nospec(to->nr, UBD_MAX_SLOTS)];
	to->flags = smp_load_acquire(&to->slot->flags);
	if (!(to->flags & UBD_SL_LIVE) ||
	    ubd_check_slot(to->slot, to->flags, &io, idx))
		return -EINVAL;
	if (idx != UBD_IDX_READ && !(to->flags & UBD_SL_FILE) &&
	    !ubd_bdev_can(to->slot->bdev, idx))
		return -EOPNOTSUPP;
	return 0;
}

/*
 * The flags of a clone. PREFLUSH never comes with data: the front has done that
 * flush before it sent the data on. FUA is still on the bio, whether the hidden
 * disk has FUA (then it is on the request, too) or only a cache (then blk-flush
 * takes it off the request, and has the server flush afterwards). Of a server
 * without a cache the core has taken FUA off the bio, for what it has done is
 * durable; the same must hold for what it has forwarded.
 */
static blk_opf_t ubd_forward_opf(struct ubd_device *ub, blk_opf_t opf)
{
	if (!ub->daemon_flush && (opf & REQ_OP_MASK) == REQ_OP_WRITE)
		opf |= REQ_FUA;
	/* Nobody can poll for it, and the submitter has no say any more. */
	return opf & ~(REQ_NOWAIT | REQ_POLLED | REQ_ALLOC_CACHE);
}

/*
 * The first bio has its clone in the request, and needs no memory. More come
 * from a reserve; each is on its way before the next is asked for.
 */
static struct bio *ubd_forward_clone(struct ubd_device *ub, struct request *rq,
				     struct block_device *bdev, struct bio *bio)
{
	struct ubd_forwarding *fwd = ubd_forwarding(rq);
	struct bio *clone = &fwd->clone;

	if (unlikely(bio != rq->bio))
		clone = bio_alloc_clone(bdev, bio, GFP_NOIO, &ub->forward_bs);
	else if (unlikely(bio_init_clone(bdev, clone, bio, GFP_NOIO)))
		clone = NULL;
	if (unlikely(!clone)) {
		cmpxchg(&fwd->status, BLK_STS_OK, BLK_STS_RESOURCE);
		return NULL;
	}
	clone->bi_opf = ubd_forward_opf(ub, bio->bi_opf);
	clone->bi_private = rq;
	clone->bi_end_io = ubd_forward_endio;
	atomic_inc(&fwd->pending);
	return clone;
}

static void ubd_forward_issue(struct ubd_device *ub, struct request *rq,
			      const struct ubd_forward_to *to)
{
	/* A file's bios are ours as they are: no disk looks at them. */
	struct block_device *bdev = to->slot->bdev ?: ub->hidden_bdev;
	u64 sector = to->slot->base + to->sector;
	u64 end = sector + to->sectors;
	struct bio *bio, *clone;

	__rq_for_each_bio(bio, rq) {
		unsigned int nr = min_t(u64, bio_sectors(bio), end - sector);

		clone = ubd_forward_clone(ub, rq, bdev, bio);
		if (!clone)
			break;
		if (nr < bio_sectors(bio))
			bio_trim(clone, 0, nr);
		if (to->flags & UBD_SL_FILE) {
			ubd_file_submit(ub, to->slot, to->flags, clone, sector,
					UBD_FORWARDED);
		} else {
			clone->bi_iter.bi_sector = sector;
			submit_bio_noacct(clone);
		}
		sector += nr;
		if (sector == end)
			break;
	}
}

/* Count it, and mark the slot before a write is issued: struct ubd_slot. */
static void ubd_forward_begin(struct ubd_device *ub, struct request *rq,
			      const struct ubd_forward_to *to)
{
	struct ubd_forwarding *fwd = ubd_forwarding(rq);
	int idx = ubd_op_index(req_op(rq));

	atomic_set(&fwd->pending, 1);
	fwd->status = BLK_STS_OK;
	fwd->bytes = to->sectors << SECTOR_SHIFT;
	fwd->page = to->page;
	fwd->word = to->word;
	ubd_count(ub, forwarded[idx][0]);
	this_cpu_add(ub->stats->forwarded[idx][1], to->sectors);
	if (idx != UBD_IDX_READ && !READ_ONCE(to->slot->dirty))
		WRITE_ONCE(to->slot->dirty, true);
}

/*
 * In the server. It must not wait for I/O of its own memory's sake: that might
 * be on this device.
 */
int ubd_forward(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u32 slot, u64 sector,
		unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	struct ubd_forward_to to = {
		.nr		= slot,
		.sector		= sector,
		.sectors	= READ_ONCE(cmd->sqe->len),
	};
	u64 install = READ_ONCE(cmd->sqe->addr);
	unsigned int noio = memalloc_noio_save();
	struct request *rq;
	int ret = 0;

	if (unlikely(install))
		ret = ubd_forward_pin(&to, install);
	if (ret)
		goto restore;

	spin_lock(&io->lock);
	rq = io->req;
	if (io->state != UBD_IO_SERVER)
		ret = ubd_not_yours(q);
	else
		ret = ubd_forward_check(ub, rq, &to);
	if (!ret)
		io->state = UBD_IO_COPYING;
	spin_unlock(&io->lock);
	if (ret) {
		/* STOP has taken the request back and waits for its buffer. */
		if (ret == UBLK_IO_RES_ABORT && io->has_buffer)
			ubd_buffer_drop(io, cmd, issue_flags);
		if (to.page)
			unpin_user_page(to.page);
		goto restore;
	}

	ubd_forward_begin(ub, rq, &to);
	if (io->has_buffer)
		ubd_buffer_drop(io, cmd, issue_flags);
	ret = ubd_io_hold(q, io, cmd, io->addr, issue_flags);
	ubd_tag_returned(ub);
	ubd_forward_issue(ub, rq, &to);
	ubd_forward_put(rq);
restore:
	memalloc_noio_restore(noio);
	return ret;
}

int ubd_forward_init_device(struct ubd_device *ub)
{
	return bioset_init(&ub->forward_bs, UBD_FORWARD_RESERVE, 0, 0);
}
