// SPDX-License-Identifier: GPL-2.0
/*
 * BATCH_IO: a queue whose tags have no commands of their own. PREP makes tags
 * ready, with their buffers; a FETCH brings numbers of tags, many in a
 * completion, into buffers that the server provided to its ring, and goes on
 * until it is cancelled; COMMIT answers many. Any task of the server may give
 * any of these, through any ring.
 *
 *	       queue_rq         work of a FETCH             COMMIT
 *	READY ----------> QUEUED ------> COPYING -> SERVER -------> COPYING -> READY
 *
 * One FETCH of a queue works at a time (q->fetching): it alone takes from
 * q->pending, and leaves in q->backlog what its buffers had no room for.
 */
#include <linux/uaccess.h>

#include "ubd.h"
#include "channel.h"

/* Tags of one completion. */
#define UBD_BATCH_TAGS	128

/* Bytes of elements that are read from the server at a time: of 8 or 16. */
#define UBD_BATCH_CHUNK	512

static void ubd_batch_kick(struct ubd_queue *q);

/* ---- to the server ---- */

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

/* Task work of a FETCH. */
static void ubd_batch_deliver(struct io_uring_cmd *cmd,
			      unsigned int issue_flags)
{
	struct ubd_cmd_pdu *pdu = ubd_cmd_pdu(cmd);
	struct ubd_queue *q = pdu->q;
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
	if (!ret) {
		pdu->next = q->fetches;
		pdu->idle = true;
		q->fetches = cmd;
	}
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

static int ubd_batch_fetch(struct ubd_queue *q, struct io_uring_cmd *cmd,
			   const struct ublk_batch_io *batch,
			   unsigned int issue_flags)
{
	struct ubd_cmd_pdu *pdu = ubd_cmd_pdu(cmd);
	bool over;

	if (!(cmd->flags & IORING_URING_CMD_MULTISHOT) || batch->flags ||
	    batch->elem_bytes != sizeof(u16))
		return -EINVAL;
	*pdu = (struct ubd_cmd_pdu) {
		.q	= q,
		.group	= READ_ONCE(cmd->sqe->buf_index),
	};
	io_uring_cmd_mark_cancelable(cmd, issue_flags);

	spin_lock(&q->fetch_lock);
	over = READ_ONCE(q->ub->aborting);
	if (!over) {
		pdu->next = q->fetches;
		pdu->idle = true;
		q->fetches = cmd;
	}
	spin_unlock(&q->fetch_lock);
	if (over)
		ubd_cmd_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
	else
		ubd_batch_kick(q);
	return -EIOCBQUEUED;
}

/* ---- from the server ---- */

/* An element of PREP or COMMIT: with or without a buffer's address. */
struct ubd_batch_elem {
	struct ublk_elem_header header;
	u64 addr;
};

/* What the tag's next request is to be handed over with. */
static int ubd_batch_addr(struct ubd_device *ub,
			  const struct ublk_batch_io *batch,
			  const struct ubd_batch_elem *elem, u64 *addr)
{
	*addr = 0;
	if (ubd_auto_registers(ub)) {
		*addr = elem->header.buf_index;
		if (batch->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK)
			*addr |= UBLK_AUTO_BUF_REG_FALLBACK << 16;
	} else if (ubd_maps_data(ub)) {
		if (batch->flags & UBLK_BATCH_F_HAS_BUF_ADDR)
			*addr = elem->addr;
		if (!*addr)
			return -EINVAL;
	}
	return 0;
}

/* ub->mutex is held. */
static int ubd_batch_prep_one(struct ubd_queue *q,
			      const struct ublk_batch_io *batch,
			      const struct ubd_batch_elem *elem)
{
	struct ubd_device *ub = q->ub;
	struct ubd_io *io;
	u64 addr;
	int ret;

	if (elem->header.tag >= q->depth)
		return -EINVAL;
	ret = ubd_batch_addr(ub, batch, elem, &addr);
	if (ret)
		return ret;
	io = &q->ios[array_index_nospec(elem->header.tag, q->depth)];
	spin_lock(&io->lock);
	if (io->state == UBD_IO_NONE) {
		io->addr = addr;
		io->state = UBD_IO_READY;
	} else {
		ret = -EBUSY;
	}
	spin_unlock(&io->lock);
	return ret;
}

static void ubd_batch_elem(const struct ublk_batch_io *batch, const void *from,
			   struct ubd_batch_elem *elem)
{
	elem->addr = 0;
	memcpy(elem, from, batch->elem_bytes);
}

/* All of them or none: while the device has not started, or recovers. */
static int ubd_batch_prep(struct ubd_queue *q, struct io_uring_cmd *cmd,
			  const struct ublk_batch_io *batch)
{
	size_t size = (size_t)batch->nr_elem * batch->elem_bytes;
	struct ubd_device *ub = q->ub;
	struct ubd_batch_elem elem;
	unsigned int nr = 0;
	void *elems;
	int ret = 0;

	if (!size)
		return -EINVAL;
	elems = vmemdup_user(u64_to_user_ptr(READ_ONCE(cmd->sqe->addr)), size);
	if (IS_ERR(elems))
		return PTR_ERR(elems);
	mutex_lock(&ub->mutex);
	if (ub->aborting)
		ret = UBLK_IO_RES_ABORT;
	else if (ub->front && !ub->recovering)
		ret = -EBUSY;
	for (; !ret && nr < batch->nr_elem; nr += !ret) {
		ubd_batch_elem(batch, elems + nr * batch->elem_bytes, &elem);
		ret = ubd_batch_prep_one(q, batch, &elem);
	}
	if (!ret) {
		q->nr_ready += nr;
		if (q->nr_ready == q->depth &&
		    ++ub->nr_queues_ready == ub->info.nr_hw_queues)
			ubd_all_ready(ub);
	} else {
		/* No request comes before all are ready. */
		while (nr-- > 0) {
			ubd_batch_elem(batch, elems + nr * batch->elem_bytes,
				       &elem);
			q->ios[elem.header.tag].state = UBD_IO_NONE;
		}
	}
	mutex_unlock(&ub->mutex);
	kvfree(elems);
	return ret;
}

static int ubd_batch_commit_one(struct ubd_queue *q, struct io_uring_cmd *cmd,
				const struct ublk_batch_io *batch,
				const struct ubd_batch_elem *elem,
				unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	bool buffer, over;
	blk_status_t status;
	struct request *rq;
	struct ubd_io *io;
	size_t bytes;
	u64 addr;
	int ret;

	if (elem->header.tag >= q->depth)
		return -EINVAL;
	ret = ubd_batch_addr(ub, batch, elem, &addr);
	if (ret)
		return ret;
	io = &q->ios[array_index_nospec(elem->header.tag, q->depth)];

	spin_lock(&io->lock);
	rq = io->req;
	over = READ_ONCE(ub->aborting) && io->state == UBD_IO_NONE;
	if (io->state == UBD_IO_SERVER)
		io->state = UBD_IO_COPYING;
	else
		ret = over ? UBLK_IO_RES_ABORT : -EBUSY;
	/* Of another ring, it is the server's to take out. */
	buffer = (!ret || over) && io->has_buffer &&
		 io->ring == ubd_cmd_ring(cmd);
	if (!ret || over)
		io->has_buffer = false;
	spin_unlock(&io->lock);
	if (buffer)
		ubd_buffer_drop(io, cmd, issue_flags);
	if (ret)
		return ret;

	bytes = ubd_take_result(rq, addr, elem->header.result, &status);

	spin_lock(&io->lock);
	io->req = NULL;
	io->addr = addr;
	io->state = READ_ONCE(ub->aborting) ? UBD_IO_NONE : UBD_IO_READY;
	spin_unlock(&io->lock);
	ubd_tag_returned(ub);
	ubd_commit_request(q, rq, bytes, status);
	return 0;
}

/* The bytes of elements that were done, or why none was. */
static int ubd_batch_commit(struct ubd_queue *q, struct io_uring_cmd *cmd,
			    const struct ublk_batch_io *batch,
			    unsigned int issue_flags)
{
	u8 __user *from = u64_to_user_ptr(READ_ONCE(cmd->sqe->addr));
	unsigned int done = 0, end = batch->nr_elem * batch->elem_bytes;
	u8 chunk[UBD_BATCH_CHUNK] __aligned(8);
	struct ubd_batch_elem elem;
	int ret = 0;

	while (!ret && done < end) {
		unsigned int at, n = min_t(unsigned int, end - done,
					   sizeof(chunk));

		if (copy_from_user(chunk, from + done, n)) {
			ret = -EFAULT;
			break;
		}
		for (at = 0; !ret && at < n; at += batch->elem_bytes) {
			ubd_batch_elem(batch, chunk + at, &elem);
			ret = ubd_batch_commit_one(q, cmd, batch, &elem,
						   issue_flags);
			if (!ret)
				done += batch->elem_bytes;
		}
	}
	return done ?: ret;
}

static bool ubd_batch_is_sane(struct ubd_queue *q,
			      const struct ublk_batch_io *batch)
{
	const u16 known = UBLK_BATCH_F_HAS_BUF_ADDR |
			  UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;
	bool addr = batch->flags & UBLK_BATCH_F_HAS_BUF_ADDR;

	if (batch->flags & ~known || (addr && !ubd_maps_data(q->ub)))
		return false;
	if (batch->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK &&
	    !ubd_auto_registers(q->ub))
		return false;
	return batch->elem_bytes == sizeof(struct ublk_elem_header) +
				    (addr ? sizeof(u64) : 0);
}

/* The three commands of such a queue. */
int ubd_batch_cmd(struct ubd_device *ub, struct io_uring_cmd *cmd,
		  unsigned int issue_flags)
{
	const struct ublk_batch_io *src = ubd_cmd_arg(cmd);
	struct ublk_batch_io batch = {
		.q_id		= READ_ONCE(src->q_id),
		.flags		= READ_ONCE(src->flags),
		.nr_elem	= READ_ONCE(src->nr_elem),
		.elem_bytes	= READ_ONCE(src->elem_bytes),
	};
	struct ubd_queue *q;

	if (batch.q_id >= ub->info.nr_hw_queues)
		return -EINVAL;
	q = ub->queues[array_index_nospec(batch.q_id, ub->info.nr_hw_queues)];
	if (cmd->cmd_op == UBLK_U_IO_FETCH_IO_CMDS)
		return ubd_batch_fetch(q, cmd, &batch, issue_flags);
	if (batch.nr_elem > q->depth)
		return -E2BIG;
	if (!ubd_batch_is_sane(q, &batch))
		return -EINVAL;
	if (cmd->cmd_op == UBLK_U_IO_PREP_IO_CMDS)
		return ubd_batch_prep(q, cmd, &batch);
	return ubd_batch_commit(q, cmd, &batch, issue_flags);
}
