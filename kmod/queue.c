// SPDX-License-Identifier: GPL-2.0
/*
 * The hidden blk-mq disk: every declined bio becomes a request here, is
 * delivered to the daemon by task work, and ends at the daemon's COMMIT, or
 * earlier, when the device stops or the daemon dies.
 *
 * Who may end a request is decided by the state of its tag, under io->lock:
 *
 *	         FETCH             queue_rq           task work
 *	NONE ------------> READY -----------> QUEUED -----------> COPYING
 *	  ^                 ^  |                 |                   |
 *	  |  cancel         |  |            STOP |                   v
 *	  +-----------------|--+                 v       COMMIT    SERVER
 *	  ^                 +---- COPYING <------|-----------------  |
 *	  |   task work                          v                   |
 *	  +----------------------------------- ABORTED               |
 *	  +---------------------------- STOP, daemon gone -----------+
 *
 * A command whose task work is on its way may only be completed by that work,
 * hence ABORTED: its request has ended, its command has not.
 */
#include <linux/sched/task.h>
#include <linux/uio.h>

#include "ubd.h"
#include "channel.h"

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
static void ubd_acct_start(struct ubd_device *ub, struct request *rq)
{
	struct ubd_rq *pdu = blk_mq_rq_to_pdu(rq);

	pdu->acct = NULL;
	if (req_op(rq) == REQ_OP_FLUSH ||
	    !blk_queue_io_stat(ub->front_bdev->bd_disk->queue))
		return;
	pdu->acct = ub->front_bdev;
	pdu->start = bdev_start_io_acct(pdu->acct, req_op(rq), jiffies);
}

static void ubd_acct_end(struct request *rq, unsigned int sectors)
{
	struct ubd_rq *pdu = blk_mq_rq_to_pdu(rq);

	if (pdu->acct)
		bdev_end_io_acct(pdu->acct, req_op(rq), sectors, pdu->start);
	pdu->acct = NULL;
}

/*
 * BHs are off while a request ends in the daemon's context: a final fput in
 * its completion must go to a worker, not to the daemon, which would wait for
 * itself in the release of its own disk.
 */
static void ubd_end_request(struct request *rq, blk_status_t status)
{
	local_bh_disable();
	ubd_acct_end(rq, blk_rq_sectors(rq));
	blk_mq_end_request(rq, status);
	local_bh_enable();
}

/* Copy between a request and the server's buffer, in the server's context. */
static size_t ubd_copy(struct request *rq, u64 addr, size_t len, bool to_server)
{
	struct req_iterator rq_iter;
	struct iov_iter iter;
	struct bio_vec bv;
	size_t done = 0;

	if (import_ubuf(to_server ? ITER_DEST : ITER_SOURCE,
			u64_to_user_ptr(addr), len, &iter))
		return 0;
	rq_for_each_segment(bv, rq, rq_iter) {
		size_t n = min_t(size_t, bv.bv_len, len - done);
		size_t copied;

		if (!n)
			break;
		if (to_server)
			copied = copy_page_to_iter(bv.bv_page, bv.bv_offset, n,
						   &iter);
		else
			copied = copy_page_from_iter(bv.bv_page, bv.bv_offset,
						     n, &iter);
		done += copied;
		if (copied < n)
			break;
	}
	return done;
}

static void ubd_fill_desc(struct ubd_queue *q, struct ubd_io *io,
			  struct request *rq)
{
	struct ublksrv_io_desc *desc = &q->descs[rq->tag];

	desc->op_flags = ubd_desc_op_flags(rq);
	desc->nr_sectors = blk_rq_sectors(rq);
	desc->start_sector = blk_rq_pos(rq);
	desc->addr = io->addr;
}

/*
 * Until there is a server again; @rq has no tag of ours. Who ends the waiting
 * changes the policy first and kicks the list then.
 */
static void ubd_park(struct ubd_device *ub, struct request *rq)
{
	struct request_queue *queue = rq->q;

	/* On the list, the request may end; the queue must not go with it. */
	percpu_ref_get(&queue->q_usage_counter);
	blk_mq_requeue_request(rq, false);
	smp_mb();	/* pairs with ubd_unquiesce() */
	if (!ubd_waits_for_server(ub))
		blk_mq_kick_requeue_list(queue);
	percpu_ref_put(&queue->q_usage_counter);
}

/*
 * The server will not answer. @seen: it may have begun, so that to do it again
 * is what the device's owner must have asked for.
 */
static void ubd_drop_request(struct ubd_device *ub, struct request *rq,
			     bool seen)
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

/* Task work, in the daemon: hand one request over. */
static void ubd_deliver(struct ubd_queue *q, struct ubd_io *io, bool dead,
			unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	struct io_uring_cmd *cmd;
	struct request *rq;
	int res = UBLK_IO_RES_ABORT;
	bool failed;

	spin_lock(&io->lock);
	cmd = io->cmd;
	rq = io->req;
	if (dead || io->state == UBD_IO_ABORTED)
		goto abort;
	io->state = UBD_IO_COPYING;
	spin_unlock(&io->lock);

	failed = req_op(rq) == REQ_OP_WRITE &&
		 ubd_copy(rq, io->addr, blk_rq_bytes(rq), true) <
		 blk_rq_bytes(rq);
	if (!failed)
		ubd_fill_desc(q, io, rq);

	spin_lock(&io->lock);
	if (ub->aborting || q->dead)
		goto abort;
	if (failed) {
		/* The buffer is not there: the io fails, the tag lives on. */
		io->state = UBD_IO_READY;
		io->req = NULL;
		spin_unlock(&io->lock);
		ubd_tag_returned(ub);
		ubd_end_request(rq, BLK_STS_IOERR);
		return;
	}
	io->state = UBD_IO_SERVER;
	io->cmd = NULL;
	res = UBLK_IO_RES_OK;
	rq = NULL;
	goto unlock;
abort:
	io->state = UBD_IO_NONE;
	io->cmd = NULL;
	io->req = NULL;
unlock:
	spin_unlock(&io->lock);
	ubd_tag_returned(ub);
	if (rq)
		ubd_drop_request(ub, rq, false);
	io_uring_cmd_done(cmd, res, 0, issue_flags);
}

static void ubd_deliver_pending(struct io_uring_cmd *cmd,
				unsigned int issue_flags)
{
	struct ubd_queue *q = ubd_cmd_pdu(cmd)->q;
	struct llist_node *list;
	struct ubd_io *io, *next;
	bool dead;

	/* The ring goes away: we run in a kernel worker without its mm. */
	dead = current != q->daemon || current->flags & PF_EXITING;
	list = llist_reverse_order(llist_del_all(&q->pending));
	llist_for_each_entry_safe(io, next, list, node)
		ubd_deliver(q, io, dead, issue_flags);
}

static blk_status_t ubd_queue_rq(struct blk_mq_hw_ctx *hctx,
				 const struct blk_mq_queue_data *bd)
{
	struct ubd_queue *q = hctx->driver_data;
	struct ubd_device *ub = q->ub;
	struct request *rq = bd->rq;
	struct ubd_io *io = &q->ios[rq->tag];
	struct io_uring_cmd *cmd;

	if (ubd_op_index(req_op(rq)) < 0)
		return BLK_STS_NOTSUPP;

	spin_lock(&io->lock);
	/* No command, no daemon: fail now rather than hang, if not told to. */
	if (io->state != UBD_IO_READY || ub->aborting || q->dead) {
		spin_unlock(&io->lock);
		if (!ubd_waits_for_server(ub))
			return BLK_STS_IOERR;
		ubd_park(ub, rq);
		return BLK_STS_OK;
	}
	blk_mq_start_request(rq);
	ubd_acct_start(ub, rq);
	io->state = UBD_IO_QUEUED;
	io->req = rq;
	cmd = io->cmd;
	spin_unlock(&io->lock);

	/*
	 * One task work for all that is pending: who finds the list empty
	 * sends it. Its command cannot go before: only that work ends it.
	 */
	if (llist_add(&io->node, &q->pending))
		io_uring_cmd_complete_in_task(cmd, ubd_deliver_pending);
	return BLK_STS_OK;
}

/* A slow daemon is not a dead one; STOP ends requests without our help. */
static enum blk_eh_timer_return ubd_timeout(struct request *rq)
{
	return BLK_EH_RESET_TIMER;
}

static int ubd_init_hctx(struct blk_mq_hw_ctx *hctx, void *data,
			 unsigned int nr)
{
	struct ubd_device *ub = data;

	hctx->driver_data = ub->queues[nr];
	return 0;
}

const struct blk_mq_ops ubd_mq_ops = {
	.queue_rq	= ubd_queue_rq,
	.timeout	= ubd_timeout,
	.init_hctx	= ubd_init_hctx,
};

const struct block_device_operations ubd_hidden_fops = {
	.owner		= THIS_MODULE,
};

/*
 * Neither the backing nor the daemon can do it, which the core only believes
 * when the limit says so: then it writes the zeroes itself. The request keeps
 * the front alive.
 */
static void ubd_withdraw(struct request *rq)
{
	struct ubd_device *ub = rq->q->queuedata;
	struct request_queue *front = bdev_get_queue(ub->front_bdev);

	if (req_op(rq) == REQ_OP_DISCARD)
		blk_queue_disable_discard(front);
	else if (req_op(rq) == REQ_OP_WRITE_ZEROES)
		blk_queue_disable_write_zeroes(front);
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
		*status = errno_to_blk_status(result);
		if (result == -EOPNOTSUPP)
			ubd_withdraw(rq);
		/* Would make the submitter spin: this was the final answer. */
		if (*status == BLK_STS_AGAIN)
			*status = BLK_STS_IOERR;
		return 0;
	}
	if (req_op(rq) != REQ_OP_READ && req_op(rq) != REQ_OP_WRITE)
		return bytes;
	bytes = min_t(size_t, bytes, result);
	if (req_op(rq) == REQ_OP_READ && bytes)
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
	local_bh_disable();
	ubd_acct_end(rq, bytes >> SECTOR_SHIFT);
	if (blk_update_request(rq, BLK_STS_OK, bytes))
		blk_mq_requeue_request(rq, true);
	else
		__blk_mq_end_request(rq, BLK_STS_OK);
	local_bh_enable();
}

/*
 * Take back what the daemon owns or is about to get. Returns true if copies
 * are still running; those end themselves once ub->aborting or q->dead is set.
 */
bool ubd_end_server_requests(struct ubd_queue *q)
{
	bool copying = false;
	unsigned int tag;

	for (tag = 0; tag < q->depth; tag++) {
		struct ubd_io *io = &q->ios[tag];
		struct request *rq = NULL;
		bool seen = false;

		spin_lock(&io->lock);
		if (io->state == UBD_IO_SERVER) {
			io->state = UBD_IO_NONE;
			swap(rq, io->req);
			seen = true;
		} else if (io->state == UBD_IO_QUEUED) {
			io->state = UBD_IO_ABORTED;
			swap(rq, io->req);
		} else if (io->state == UBD_IO_COPYING) {
			copying = true;
		}
		spin_unlock(&io->lock);
		if (rq)
			ubd_drop_request(q->ub, rq, seen);
	}
	return copying;
}

/* Is any request with the daemon, or on its way there or back? */
bool ubd_server_is_busy(struct ubd_device *ub)
{
	unsigned int i, tag;

	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		struct ubd_queue *q = ub->queues[i];

		for (tag = 0; tag < q->depth; tag++) {
			enum ubd_io_state state = READ_ONCE(q->ios[tag].state);

			if (state != UBD_IO_READY && state != UBD_IO_NONE)
				return true;
		}
	}
	return false;
}

/* Give idle commands back to the server, which then knows that it is over. */
void ubd_cancel_commands(struct ubd_device *ub)
{
	unsigned int i, tag;

	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		struct ubd_queue *q = ub->queues[i];

		for (tag = 0; tag < q->depth; tag++)
			ubd_cancel_io(&q->ios[tag], NULL, IO_URING_F_UNLOCKED);
	}
}

size_t ubd_descs_size(u16 depth)
{
	return PAGE_ALIGN(depth * sizeof(struct ublksrv_io_desc));
}

int ubd_queues_alloc(struct ubd_device *ub)
{
	u16 depth = ub->info.queue_depth;
	unsigned int i, tag;

	ub->queues = kcalloc(ub->info.nr_hw_queues, sizeof(*ub->queues),
			     GFP_KERNEL);
	if (!ub->queues)
		return -ENOMEM;
	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		struct ubd_queue *q;

		q = kvzalloc(struct_size(q, ios, depth), GFP_KERNEL);
		if (!q)
			return -ENOMEM;
		ub->queues[i] = q;
		q->ub = ub;
		q->q_id = i;
		q->depth = depth;
		init_llist_head(&q->pending);
		for (tag = 0; tag < depth; tag++)
			spin_lock_init(&q->ios[tag].lock);
		q->descs = alloc_pages_exact(ubd_descs_size(depth),
					     GFP_KERNEL | __GFP_ZERO);
		if (!q->descs)
			return -ENOMEM;
	}
	return 0;
}

/* Also after ubd_queues_alloc() failed half-way. */
void ubd_queues_free(struct ubd_device *ub)
{
	unsigned int i;

	if (!ub->queues)
		return;
	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		struct ubd_queue *q = ub->queues[i];

		if (!q)
			continue;
		if (q->daemon)
			put_task_struct(q->daemon);
		if (q->descs)
			free_pages_exact(q->descs, ubd_descs_size(q->depth));
		kvfree(q);
	}
	kfree(ub->queues);
}
