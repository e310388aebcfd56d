// SPDX-License-Identifier: GPL-2.0
/*
 * BATCH_IO: a queue whose tags have no commands of their own. PREP makes tags
 * ready, with their buffers; a FETCH (fetch.c) brings numbers of tags, many in a
 * completion; COMMIT answers many. Any task of the server may give any of these,
 * through any ring.
 */
#include <linux/uaccess.h>

#include "ubd.h"
#include "channel.h"

/* Bytes of elements that are read from the server at a time: of 8 or 16. */
#define UBD_BATCH_CHUNK	512

/* An element of PREP or COMMIT: with or without a buffer's address. */
struct ubd_batch_elem {
	struct ublk_elem_header header;
	u64 addr;
};

/* The tag meant, and what its next request is to be handed over with. */
static struct ubd_io *ubd_batch_io(struct ubd_queue *q,
				   const struct ublk_batch_io *batch,
				   const struct ubd_batch_elem *elem, u64 *addr)
{
	struct ubd_device *ub = q->ub;

	if (elem->header.tag >= q->depth)
		return NULL;
	*addr = 0;
	if (ubd_auto_registers(ub)) {
		*addr = elem->header.buf_index;
		if (batch->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK)
			*addr |= UBLK_AUTO_BUF_REG_FALLBACK << 16;
	} else if (ubd_maps_data(ub)) {
		if (batch->flags & UBLK_BATCH_F_HAS_BUF_ADDR)
			*addr = elem->addr;
		if (!*addr)
			return NULL;
	}
	return &q->ios[array_index_nospec(elem->header.tag, q->depth)];
}

/* ub->mutex is held. */
static int ubd_batch_prep_one(struct ubd_queue *q,
			      const struct ublk_batch_io *batch,
			      const struct ubd_batch_elem *elem)
{
	struct ubd_io *io;
	int ret = 0;
	u64 addr;

	io = ubd_batch_io(q, batch, elem, &addr);
	if (!io)
		return -EINVAL;
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
	int ret = 0;
	u64 addr;

	io = ubd_batch_io(q, batch, elem, &addr);
	if (!io)
		return -EINVAL;

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
