// SPDX-License-Identifier: GPL-2.0
/*
 * A request's memory as a fixed buffer of the server's ring: its reads and
 * writes of the backing go there, and it never sees what they carry.
 *
 * A buffer is a borrower (copy.c): the request ends when COMMIT has come and the
 * last I/O on its buffer is over. With AUTO_BUF_REG the buffer comes with the
 * request and goes with COMMIT, in the same ring; else the server registers it.
 */
#include "ubd.h"
#include "channel.h"

/* The ring and every I/O on the buffer have let go of it; process context. */
static void ubd_buffer_release(void *priv)
{
	struct request *rq = priv;

	/* It was the request that kept this code: module exit waits for us. */
	rcu_read_lock();
	ubd_return(rq->mq_hctx->driver_data, rq);
	rcu_read_unlock();
}

/*
 * What a FETCH or COMMIT carries beside its own fields with AUTO_BUF_REG: where
 * in the ring's table the next request goes, and what if it cannot.
 */
int ubd_auto_addr(struct io_uring_cmd *cmd, u64 *addr)
{
	const u64 known = U16_MAX | (u64)UBLK_AUTO_BUF_REG_F_MASK << 16;

	if (*addr)
		return -EINVAL;
	*addr = READ_ONCE(cmd->sqe->addr);
	return *addr & ~known ? -EINVAL : 0;
}

/*
 * The request is on its way to the server, whose it is not yet; its descriptor
 * is filled in. False: it cannot be had.
 */
bool ubd_buffer_lend(struct ubd_queue *q, struct ubd_io *io, struct request *rq,
		     struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	if (!ubd_has_data(rq))
		return true;
	refcount_inc(&ubd_rq(rq)->refs);
	atomic_inc(&q->lent);
	if (!ubd_register_request(cmd, rq, ubd_buffer_release, (u16)io->addr,
				  issue_flags)) {
		io->has_buffer = true;
		return true;
	}
	ubd_return(q, rq);
	if (!(io->addr >> 16 & UBLK_AUTO_BUF_REG_FALLBACK))
		return false;
	ubd_desc(q, rq->tag)->op_flags |= UBLK_IO_F_NEED_REG_BUF;
	return true;
}

/*
 * Take out of the ring what ubd_buffer_lend() put there. @cmd came through the
 * same ring, in the task of the tag.
 */
void ubd_buffer_drop(struct ubd_io *io, struct io_uring_cmd *cmd,
		     unsigned int issue_flags)
{
	io->has_buffer = false;
	/* If it is not there, the server was faster. */
	ubd_unregister_request(cmd, (u16)io->addr, issue_flags);
}

/* REGISTER_IO_BUF, from any task and into its ring. */
int ubd_buffer_register(struct ubd_queue *q, unsigned int tag,
			struct io_uring_cmd *cmd, u64 index,
			unsigned int issue_flags)
{
	struct request *rq;
	int ret = -EINVAL;

	if (!UBD_HAS_BUFFERS)
		return -EOPNOTSUPP;
	if (!(q->ub->info.flags & UBLK_F_SUPPORT_ZERO_COPY) ||
	    index > UINT_MAX)
		return -EINVAL;
	rq = ubd_borrow(q, tag);
	if (!rq)
		return -EINVAL;
	if (ubd_has_data(rq))
		ret = ubd_register_request(cmd, rq, ubd_buffer_release, index,
					   issue_flags);
	if (ret)
		ubd_return(q, rq);
	return ret;
}

/* UNREGISTER_IO_BUF: the index says it all. */
int ubd_buffer_unregister(struct ubd_device *ub, struct io_uring_cmd *cmd,
			  u64 index, unsigned int issue_flags)
{
	if (!UBD_HAS_BUFFERS)
		return -EOPNOTSUPP;
	if (!(ub->info.flags & UBLK_F_SUPPORT_ZERO_COPY) || index > UINT_MAX)
		return -EINVAL;
	return ubd_unregister_request(cmd, index, issue_flags);
}
