// SPDX-License-Identifier: GPL-2.0
/*
 * A request of the hidden disk: how it is described to the server, what becomes
 * of the server's answer, how it ends, and what if no answer comes.
 */
#include "ubd.h"
#include "channel.h"
#include "count.h"

static u32 ubd_desc_op_flags(struct request *rq)
{
	u32 v = ubd_io_flags(rq->cmd_flags);

	switch (req_op(rq)) {
	case REQ_OP_READ:
		v |= UBLK_IO_OP_READ;
		break;
	case REQ_OP_WRITE:
		v |= UBLK_IO_OP_WRITE;
		break;
	case REQ_OP_FLUSH:
		v |= UBLK_IO_OP_FLUSH;
		break;
	case REQ_OP_DISCARD:
		v |= UBLK_IO_OP_DISCARD;
		break;
	default:
		v |= UBLK_IO_OP_WRITE_ZEROES;
		break;
	}
	if (rq->cmd_flags & REQ_FAILFAST_DEV)
		v |= UBLK_IO_F_FAILFAST_DEV;
	if (rq->cmd_flags & REQ_FAILFAST_TRANSPORT)
		v |= UBLK_IO_F_FAILFAST_TRANSPORT;
	if (rq->cmd_flags & REQ_FAILFAST_DRIVER)
		v |= UBLK_IO_F_FAILFAST_DRIVER;
	return v;
}

/* iostat of the front disk; flushes are counted where they enter. */
void ubd_acct_start(struct ubd_device *ub, struct request *rq)
{
	struct ubd_rq *pdu = ubd_rq(rq);

	pdu->acct = NULL;
	if (req_op(rq) == REQ_OP_FLUSH ||
	    !blk_queue_io_stat(ub->front_bdev->bd_disk->queue))
		return;
	pdu->acct = ub->front_bdev;
	pdu->start = ubd_acct_begin(pdu->acct, req_op(rq));
}

static void ubd_acct_end(struct request *rq, unsigned int sectors)
{
	struct ubd_rq *pdu = ubd_rq(rq);

	if (pdu->acct)
		ubd_acct_finish(pdu->acct, req_op(rq), sectors, pdu->start);
	pdu->acct = NULL;
}

/*
 * BHs are off while a request ends in the daemon's context: a final fput in
 * its completion must go to a worker, not to the daemon, which would wait for
 * itself in the release of its own disk. A forwarded request may also end in an
 * interrupt, or wherever else a disk ends its bios.
 */
static void ubd_bh_off(void)
{
	if (!in_hardirq())
		local_bh_disable();
}

static void ubd_bh_on(void)
{
	if (in_hardirq())
		return;
	if (irqs_disabled())
		_local_bh_enable();
	else
		local_bh_enable();
}

void ubd_end_request(struct request *rq, blk_status_t status)
{
	ubd_bh_off();
	ubd_acct_end(rq, blk_rq_sectors(rq));
	blk_mq_end_request(rq, status);
	ubd_bh_on();
}

void ubd_fill_desc(struct ubd_queue *q, struct ubd_io *io, struct request *rq)
{
	struct ublksrv_io_desc *desc = ubd_desc(q, rq->tag);

	desc->op_flags = ubd_desc_op_flags(rq);
	desc->nr_sectors = blk_rq_sectors(rq);
	desc->start_sector = blk_rq_pos(rq);
	desc->addr = io->addr;
}

/* The next server may be there before the last one's borrowers are gone. */
static bool ubd_is_served_by(struct ubd_device *ub, struct ubd_queue *q)
{
	return READ_ONCE(ub->info.state) == UBLK_S_DEV_LIVE &&
	       !READ_ONCE(ub->quiesced) && !READ_ONCE(q->dead);
}

/*
 * Until there is a server again; @rq has no tag of ours. Who ends the waiting
 * changes the policy first and kicks the list then.
 */
void ubd_park(struct ubd_device *ub, struct request *rq)
{
	struct ubd_queue *q = rq->mq_hctx->driver_data;
	struct request_queue *queue = rq->q;

	/* On the list, the request may end; the queue must not go with it. */
	percpu_ref_get(&queue->q_usage_counter);
	blk_mq_requeue_request(rq, false);
	smp_mb();	/* pairs with ubd_unquiesce() */
	if (!ubd_waits_for_server(ub) || ubd_is_served_by(ub, q))
		blk_mq_kick_requeue_list(queue);
	percpu_ref_put(&queue->q_usage_counter);
}

/*
 * The server will not answer. @seen: it may have begun, so that to do it again
 * is what the device's owner must have asked for.
 */
void ubd_drop_request(struct ubd_device *ub, struct request *rq, bool seen)
{
	if (ubd_waits_for_server(ub) &&
	    (!seen || ub->info.flags & UBLK_F_USER_RECOVERY_REISSUE)) {
		ubd_acct_end(rq, 0);
		ubd_park(ub, rq);
	} else {
		ubd_end_request(rq, BLK_STS_IOERR);
	}
}

/* A tag is the server's no more: STOP or QUIESCE may be waiting for it. */
void ubd_tag_returned(struct ubd_device *ub)
{
	if (READ_ONCE(ub->draining))
		wake_up(&ub->wait);
}

/*
 * The final answer of a request that failed. What neither the backing nor the
 * daemon can do the core only believes when the limit says so: then it writes
 * the zeroes itself. The request keeps the front alive.
 */
blk_status_t ubd_final_status(struct request *rq, blk_status_t status)
{
	struct ubd_device *ub = rq->q->queuedata;
	struct request_queue *front = bdev_get_queue(ub->front_bdev);

	if (status == BLK_STS_NOTSUPP) {
		if (req_op(rq) == REQ_OP_DISCARD)
			blk_queue_disable_discard(front);
		else if (req_op(rq) == REQ_OP_WRITE_ZEROES)
			blk_queue_disable_write_zeroes(front);
	}
	/* Would make the submitter spin: nobody else is going to try. */
	return status == BLK_STS_AGAIN ? BLK_STS_IOERR : status;
}

/*
 * The daemon's answer: bytes done or -errno. Data of a read comes from @addr.
 * Returns the bytes done, or 0 with *status set. Before the tag is reused.
 */
size_t ubd_take_result(struct request *rq, u64 addr, s32 result,
		       blk_status_t *status)
{
	size_t bytes = blk_rq_bytes(rq);

	*status = BLK_STS_OK;
	if (result < 0) {
		*status = ubd_final_status(rq, errno_to_blk_status(result));
		return 0;
	}
	if (!ubd_has_data(rq))
		return bytes;
	bytes = min_t(size_t, bytes, result);
	if (req_op(rq) == REQ_OP_READ && bytes &&
	    ubd_maps_data(rq->q->queuedata))
		bytes = ubd_copy(rq, addr, bytes, false);
	/* Whole sectors only; nothing at all is an error, not a retry. */
	bytes = round_down(bytes, SECTOR_SIZE);
	if (!bytes)
		*status = BLK_STS_IOERR;
	return bytes;
}

/* End what is done, send the rest to the daemon again. */
void ubd_finish_request(struct request *rq, size_t bytes, blk_status_t status)
{
	if (status || req_op(rq) == REQ_OP_FLUSH) {
		ubd_end_request(rq, status);
		return;
	}
	ubd_bh_off();
	ubd_acct_end(rq, bytes >> SECTOR_SHIFT);
	if (blk_update_request(rq, BLK_STS_OK, bytes))
		blk_mq_requeue_request(rq, true);
	else
		__blk_mq_end_request(rq, BLK_STS_OK);
	ubd_bh_on();
}

/* A reference less; the last one ends the request as was decided before. */
void ubd_request_put(struct ubd_device *ub, struct request *rq)
{
	struct ubd_rq *pdu = ubd_rq(rq);

	if (!refcount_dec_and_test(&pdu->refs))
		return;
	if (pdu->dropped)
		ubd_drop_request(ub, rq, true);
	else
		ubd_finish_request(rq, pdu->bytes, pdu->status);
}

/* The daemon's answer has been taken, and the tag is ready for the next. */
void ubd_commit_request(struct ubd_queue *q, struct request *rq, size_t bytes,
			blk_status_t status)
{
	if (!q->lends) {
		ubd_finish_request(rq, bytes, status);
		return;
	}
	ubd_rq(rq)->bytes = bytes;
	ubd_rq(rq)->status = status;
	ubd_request_put(q->ub, rq);
}
