// SPDX-License-Identifier: GPL-2.0
/*
 * FETCH_IO_CMDS of BATCH_IO (batch.c): a multishot command that brings numbers of
 * tags into buffers that the server provided to its ring, until it is cancelled.
 *
 *	       queue_rq         work of a FETCH             COMMIT
 *	READY ----------> QUEUED ------> COPYING -> SERVER -------> COPYING -> READY
 *
 * One FETCH of a queue works at a time (q->fetching), in the task and the ring it
 * came from: it alone takes from q->pending, and leaves in q->backlog what its
 * buffers had no room for.
 */
#include <linux/uaccess.h>

#include "ubd.h"
#include "channel.h"

/* Tags of one completion. */
#define UBD_BATCH_TAGS	128

static void ubd_batch_kick(struct ubd_queue *q);

/* True: the request is the server's, once it hears of it. */
static bool ubd_batch_give(struct ubd_queue *q, struct ubd_io *io,
			   struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	struct request *rq;
	bool given, over;

	spin_lock(&io->lock);
	rq = io->req;
	if (io->state != UBD_IO_QUEUED) {
		/* Taken back before it got here. */
		io->state = UBD_IO_NONE;
		spin_unlock(&io->lock);
		return false;
	}
	io->state = UBD_IO_COPYING;
	spin_unlock(&io->lock);

	io->ring = ubd_cmd_ring(cmd);
	given = ubd_hand_data(q, io, rq, cmd, issue_flags);

	spin_lock(&io->lock);
	over = READ_ONCE(ub->aborting);
	if (over)
		io->state = UBD_IO_NONE;
	else
		io->state = given ? UBD_IO_SERVER : UBD_IO_READY;
	if (over || !given)
		io->req = NULL;
	spin_unlock(&io->lock);
	if (!over && given)
		return true;
	/* Nobody else looks at a tag without a request. */
	if (io->has_buffer)
		ubd_buffer_drop(io, cmd, issue_flags);
	ubd_tag_returned(ub);
	if (over)
		ubd_drop_request(ub, rq, false);
	else
		ubd_end_request(rq, BLK_STS_IOERR);
	return false;
}

/* The server did not hear of it: for the next FETCH. */
static void ubd_batch_take_back(struct ubd_queue *q, struct ubd_io *io,
				struct io_uring_cmd *cmd,
				unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	bool mine, again = false;
	struct request *rq;

	spin_lock(&io->lock);
	rq = io->req;
	mine = io->state == UBD_IO_SERVER;
	if (mine)
		io->state = UBD_IO_COPYING;
	spin_unlock(&io->lock);
	if (!mine)
		return;
	if (io->has_buffer)
		ubd_buffer_drop(io, cmd, issue_flags);

	spin_lock(&io->lock);
	/* A server that borrows what it was not given does not get it again. */
	if (!READ_ONCE(ub->aborting) &&
	    (!q->lends || refcount_read(&ubd_rq(rq)->refs) == 1)) {
		io->state = UBD_IO_QUEUED;
		io->node.next = q->backlog;
		q->backlog = &io->node;
		again = true;
	} else {
		io->state = READ_ONCE(ub->aborting) ? UBD_IO_NONE :
						      UBD_IO_READY;
		io->req = NULL;
	}
	spin_unlock(&io->lock);
	ubd_tag_returned(ub);
	if (again)
		return;
	if (q->lends) {
		ubd_rq(rq)->dropped = true;
		ubd_request_put(ub, rq);
	} else {
		ubd_drop_request(ub, rq, false);
	}
}

/* One completion's worth. 1: there may be more, 0: no, else FETCH is over. */
static int ubd_batch_fill(struct ubd_queue *q, struct io_uring_cmd *cmd,
			  unsigned int issue_flags)
{
	u16 tags[UBD_BATCH_TAGS];
	unsigned int nr = 0, i;
	struct io_br_sel sel;
	size_t room = 0;

	if (!q->backlog)
		q->backlog = llist_reverse_order(llist_del_all(&q->pending));
	if (!q->backlog)
		return 0;
	sel = io_uring_cmd_buffer_select(cmd, ubd_cmd_pdu(cmd)->group, &room,
					 issue_flags);
	if (sel.val < 0)
		return sel.val;
	if (!sel.addr)
		return -ENOBUFS;

	room = min_t(size_t, room / sizeof(tags[0]), ARRAY_SIZE(tags));
	while (nr < room && q->backlog) {
		struct ubd_io *io = llist_entry(q->backlog, struct ubd_io,
						node);

		q->backlog = q->backlog->next;
		if (ubd_batch_give(q, io, cmd, issue_flags))
			tags[nr++] = io - q->ios;
	}
	if (!room)
		sel.val = -EINVAL;
	else if (copy_to_user(sel.addr, tags, nr * sizeof(tags[0])))
		sel.val = -EFAULT;
	else
		sel.val = nr * sizeof(tags[0]);
	/* Nothing to tell gives the buffer back, as an error does. */
	if (!io_uring_mshot_cmd_post_cqe(cmd, &sel, issue_flags) || !sel.val)
		return 1;
	for (i = nr; i-- > 0; )
		ubd_batch_take_back(q, &q->ios[tags[i]], cmd, issue_flags);
	return sel.val < 0 ? sel.val : -ENOBUFS;
}

/* Nobody has anything for it; q->fetch_lock is held. */
static void ubd_batch_idle(struct ubd_queue *q, struct io_uring_cmd *cmd)
{
	struct ubd_cmd_pdu *pdu = ubd_cmd_pdu(cmd);

	pdu->next = q->fetches;
	pdu->idle = true;
	q->fetches = cmd;
}

/* Task work of a FETCH. */
static void ubd_batch_deliver(struct io_uring_cmd *cmd,
			      unsigned int issue_flags)
{
	struct ubd_queue *q = ubd_cmd_pdu(cmd)->q;
	int ret = UBLK_IO_RES_ABORT;

	/* A task that is gone has its work run by a kernel thread. */
	if (!(current->flags & (PF_KTHREAD | PF_EXITING))) {
		do {
			ret = ubd_batch_fill(q, cmd, issue_flags);
		} while (ret > 0);
	}
	spin_lock(&q->fetch_lock);
	q->fetching = false;
	/* Who takes the idle ones back has set that before. */
	if (!ret && READ_ONCE(q->ub->aborting))
		ret = UBLK_IO_RES_ABORT;
	if (!ret)
		ubd_batch_idle(q, cmd);
	spin_unlock(&q->fetch_lock);
	/* Idle, it may be ended, but not go before its task has seen to it. */
	if (ret)
		ubd_cmd_done(cmd, ret, issue_flags);
	ubd_batch_kick(q);
}
UBD_CMD_TASK_WORK(ubd_batch_deliver)

/* If there is something to deliver and somebody idle to do it. */
static void ubd_batch_kick(struct ubd_queue *q)
{
	struct io_uring_cmd *cmd = NULL;

	spin_lock(&q->fetch_lock);
	if (!q->fetching && (q->backlog || !llist_empty(&q->pending)))
		cmd = q->fetches;
	if (cmd) {
		q->fetches = ubd_cmd_pdu(cmd)->next;
		ubd_cmd_pdu(cmd)->idle = false;
		q->fetching = true;
	}
	spin_unlock(&q->fetch_lock);
	if (cmd)
		ubd_cmd_in_task(cmd, ubd_batch_deliver);
}

/* From queue_rq: the tag is QUEUED. */
void ubd_batch_queue(struct ubd_queue *q, struct ubd_io *io)
{
	/* Else somebody has kicked for the first, or nobody is idle. */
	if (llist_add(&io->node, &q->pending))
		ubd_batch_kick(q);
}

/* Takes @cmd, or with NULL any, if it is idle. */
struct io_uring_cmd *ubd_batch_take(struct ubd_queue *q,
				    struct io_uring_cmd *cmd)
{
	struct io_uring_cmd **at;

	spin_lock(&q->fetch_lock);
	if (!cmd)
		cmd = q->fetches;
	if (cmd && ubd_cmd_pdu(cmd)->idle) {
		for (at = &q->fetches; *at != cmd;)
			at = &ubd_cmd_pdu(*at)->next;
		*at = ubd_cmd_pdu(cmd)->next;
		ubd_cmd_pdu(cmd)->idle = false;
	} else {
		cmd = NULL;
	}
	spin_unlock(&q->fetch_lock);
	return cmd;
}

int ubd_batch_fetch(struct ubd_queue *q, struct io_uring_cmd *cmd,
		    const struct ublk_batch_io *batch, unsigned int issue_flags)
{
	bool over;

	if (!(cmd->flags & IORING_URING_CMD_MULTISHOT) || batch->flags ||
	    batch->elem_bytes != sizeof(u16))
		return -EINVAL;
	*ubd_cmd_pdu(cmd) = (struct ubd_cmd_pdu) {
		.q	= q,
		.group	= READ_ONCE(cmd->sqe->buf_index),
	};
	io_uring_cmd_mark_cancelable(cmd, issue_flags);

	spin_lock(&q->fetch_lock);
	over = READ_ONCE(q->ub->aborting);
	if (!over)
		ubd_batch_idle(q, cmd);
	spin_unlock(&q->fetch_lock);
	if (over)
		ubd_cmd_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
	else
		ubd_batch_kick(q);
	return -EIOCBQUEUED;
}
