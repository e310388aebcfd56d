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
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "ubd.h"
#include "channel.h"

/*
 * The request's data goes along, its descriptor is filled in; the tag is
 * COPYING. False: it cannot be had.
 */
bool ubd_hand_data(struct ubd_queue *q, struct ubd_io *io, struct request *rq,
		   struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	bool data = req_op(rq) == REQ_OP_WRITE && ubd_maps_data(ub);

	io->needs_data = data && ub->info.flags & UBLK_F_NEED_GET_DATA;
	if (data && !io->needs_data &&
	    ubd_copy(rq, io->addr, blk_rq_bytes(rq), true) < blk_rq_bytes(rq))
		return false;
	if (q->lends) {
		refcount_set(&ubd_rq(rq)->refs, 1);
		ubd_rq(rq)->dropped = false;
	}
	ubd_fill_desc(q, io, rq);
	return !ubd_auto_registers(ub) ||
	       ubd_buffer_lend(q, io, rq, cmd, issue_flags);
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
	/* Its ring may stay: what comes is not to be tried again and again. */
	if (dead)
		WRITE_ONCE(q->dead, true);
	if (dead || io->state == UBD_IO_ABORTED)
		goto abort;
	io->state = UBD_IO_COPYING;
	spin_unlock(&io->lock);

	failed = !ubd_hand_data(q, io, rq, cmd, issue_flags);

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
	res = io->needs_data ? UBLK_IO_RES_NEED_GET_DATA : UBLK_IO_RES_OK;
	rq = NULL;
	goto unlock;
abort:
	io->state = UBD_IO_NONE;
	io->cmd = NULL;
	io->req = NULL;
unlock:
	spin_unlock(&io->lock);
	/* Nobody had the time to use it: gone at once. */
	if (rq && io->has_buffer)
		ubd_buffer_drop(io, cmd, issue_flags);
	ubd_tag_returned(ub);
	if (rq)
		ubd_drop_request(ub, rq, false);
	ubd_cmd_done(cmd, res, issue_flags);
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
UBD_CMD_TASK_WORK(ubd_deliver_pending)

/* A tag with a task or a ring of its own. */
static void ubd_deliver_alone(struct io_uring_cmd *cmd,
			      unsigned int issue_flags)
{
	struct ubd_cmd_pdu *pdu = ubd_cmd_pdu(cmd);

	ubd_deliver(pdu->q, pdu->io, current != pdu->io->task ||
		    current->flags & PF_EXITING, issue_flags);
}
UBD_CMD_TASK_WORK(ubd_deliver_alone)

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
	/*
	 * The core does not split where no block fits between two boundaries
	 * (6.12), and the server's buffer has an end.
	 */
	if (unlikely(blk_rq_bytes(rq) > ub->info.max_io_buf_bytes) &&
	    ubd_has_data(rq))
		return BLK_STS_IOERR;

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
	if (q->batches)
		ubd_batch_queue(q, io);
	else if (unlikely(io->alone))
		ubd_cmd_in_task(cmd, ubd_deliver_alone);
	else if (llist_add(&io->node, &q->pending))
		ubd_cmd_in_task(cmd, ubd_deliver_pending);
	return BLK_STS_OK;
}

/*
 * A task or a ring of a queue is going: what it took nobody can answer. Others
 * go on with what they have, and get no more: the queue is dead already. Not
 * marked here, for it may have been reset for the next server since.
 */
void ubd_task_lost(struct ubd_queue *q, struct task_struct *task, void *ring)
{
	unsigned int tag;

	for (tag = 0; tag < q->depth; tag++)
		if (q->ios[tag].task == task && q->ios[tag].ring == ring)
			WRITE_ONCE(q->ios[tag].lost, true);
	ubd_end_server_requests(q, task, ring);
}

/*
 * A slow daemon is not a dead one, and STOP ends requests without our help. But
 * nobody should have to wait for one that anybody could start.
 */
static enum blk_eh_timer_return ubd_timeout(struct request *rq)
{
	struct ubd_queue *q = rq->mq_hctx->driver_data;
	struct task_struct *gone = NULL;
	int tag = READ_ONCE(rq->tag);
	struct ubd_io *io;
	void *ring;

	/* Just being requeued: not the daemon's any more. */
	if (tag < 0)
		return BLK_EH_RESET_TIMER;
	io = &q->ios[tag];
	/*
	 * As long as it has the request, its task is there, and the queue is
	 * not yet reset for the next one.
	 */
	spin_lock(&io->lock);
	ring = io->ring;
	if (io->req == rq && io->task) {
		if (io->state != UBD_IO_COPYING &&
		    io->task->flags & PF_EXITING) {
			gone = get_task_struct(io->task);
			WRITE_ONCE(q->dead, true);
		} else if (ubd_is_unprivileged(q->ub)) {
			/* Nor for one whose memory waits. */
			send_sig(SIGKILL, io->task, 1);
		}
	}
	spin_unlock(&io->lock);
	if (!gone)
		return BLK_EH_RESET_TIMER;
	/*
	 * No command has ended to tell us: it held none, or its ring outlives
	 * it. Meanwhile the next server may be there, with tasks of its own.
	 */
	ubd_task_lost(q, gone, ring);
	put_task_struct(gone);
	return BLK_EH_DONE;
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
 * Take back what the daemon owns or is about to get. Returns true if copies
 * are still running; those end themselves once ub->aborting or q->dead is set.
 * So do borrowed requests, when they are returned. Of @task and its @ring, or,
 * without a task, of all.
 */
bool ubd_end_server_requests(struct ubd_queue *q, struct task_struct *task,
			     void *ring)
{
	bool copying = false, taken = false;
	unsigned int tag;

	for (tag = 0; tag < q->depth; tag++) {
		struct ubd_io *io = &q->ios[tag];
		struct request *rq = NULL;
		bool seen = false;

		if (task && (io->task != task || io->ring != ring))
			continue;
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
		if (rq && seen && q->lends) {
			ubd_rq(rq)->dropped = true;
			ubd_request_put(q->ub, rq);
		} else if (rq) {
			ubd_drop_request(q->ub, rq, seen);
		}
		taken |= rq != NULL;
	}
	if (taken)
		ubd_tag_returned(q->ub);
	return copying || atomic_read(&q->lent);
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
		if (atomic_read(&q->lent))
			return true;
	}
	return false;
}

/*
 * Take the idle commands, to give them back to the server, which then knows that
 * it is over. Until they end, no other server can come: they hold the file.
 */
struct io_uring_cmd *ubd_take_commands(struct ubd_device *ub)
{
	struct io_uring_cmd *cmd, *list = NULL;
	unsigned int i, tag;

	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		struct ubd_queue *q = ub->queues[i];

		for (tag = 0; tag < q->depth; tag++) {
			cmd = ubd_take_command(&q->ios[tag], NULL);
			if (!cmd)
				continue;
			ubd_cmd_pdu(cmd)->next = list;
			list = cmd;
		}
		while ((cmd = ubd_batch_take(q, NULL))) {
			ubd_cmd_pdu(cmd)->next = list;
			list = cmd;
		}
	}
	return list;
}

/* Takes the lock of their ring, inside of which others take ub->mutex. */
void ubd_end_commands(struct io_uring_cmd *list)
{
	struct io_uring_cmd *next;

	for (; list; list = next) {
		next = ubd_cmd_pdu(list)->next;
		ubd_cmd_done(list, UBLK_IO_RES_ABORT, IO_URING_F_UNLOCKED);
	}
}

size_t ubd_descs_size(struct ubd_device *ub, u16 depth)
{
	return PAGE_ALIGN((size_t)depth * ubd_desc_bytes(&ub->info));
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
		q->lends = ub->info.flags & UBD_LENDING;
		q->batches = ub->info.flags & UBLK_F_BATCH_IO;
		spin_lock_init(&q->fetch_lock);
		init_llist_head(&q->pending);
		for (tag = 0; tag < depth; tag++)
			spin_lock_init(&q->ios[tag].lock);
		q->desc_bytes = ubd_desc_bytes(&ub->info);
		q->descs = alloc_pages_exact(ubd_descs_size(ub, depth),
					     GFP_KERNEL | __GFP_ZERO);
		if (!q->descs)
			return -ENOMEM;
	}
	return 0;
}

/* Nobody serves it; be ready for the next who does. */
void ubd_queue_reset(struct ubd_queue *q)
{
	unsigned int tag;

	for (tag = 0; tag < q->depth; tag++) {
		struct ubd_io *io = &q->ios[tag];

		if (io->task)
			put_task_struct(io->task);
		io->task = NULL;
		io->lost = false;
		io->has_buffer = false;
		/* No command has ended with it. */
		if (q->batches)
			io->state = UBD_IO_NONE;
	}
	if (q->batches) {
		llist_del_all(&q->pending);
		q->backlog = NULL;
	}
	q->daemon = NULL;
	q->ring = NULL;
	q->nr_ready = 0;
	q->dead = false;
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
		ubd_queue_reset(q);
		if (q->descs)
			free_pages_exact(q->descs,
					 ubd_descs_size(ub, q->depth));
		kvfree(q);
	}
	kfree(ub->queues);
}
