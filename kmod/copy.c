// SPDX-License-Identifier: GPL-2.0
/*
 * A request's data on its way to or from the server: into the buffer that came
 * with a tag's command, or, with USER_COPY, whenever the server reads or writes
 * the char device at the place that stands for the request.
 *
 * A server that copies by itself may do so while the request ends. So such a
 * request is lent: it ends when COMMIT has come, or the server was lost, and the
 * last borrower has returned it.
 */
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/uio.h>

#include "ubd.h"
#include "channel.h"

/* Copy @iter's length, or what is left, of the request's bytes from @skip on. */
static size_t ubd_copy_iter(struct request *rq, size_t skip,
			    struct iov_iter *iter, bool to_server)
{
	struct req_iterator rq_iter;
	struct bio_vec bv;
	size_t done = 0;

	rq_for_each_segment(bv, rq, rq_iter) {
		size_t n, copied;

		if (skip >= bv.bv_len) {
			skip -= bv.bv_len;
			continue;
		}
		n = min_t(size_t, bv.bv_len - skip, iov_iter_count(iter));
		if (!n)
			break;
		if (to_server)
			copied = copy_page_to_iter(bv.bv_page,
						   bv.bv_offset + skip, n, iter);
		else
			copied = copy_page_from_iter(bv.bv_page,
						     bv.bv_offset + skip, n,
						     iter);
		done += copied;
		skip = 0;
		if (copied < n)
			break;
	}
	return done;
}

/* Between a request and the server's buffer, in the server's context. */
size_t ubd_copy(struct request *rq, u64 addr, size_t len, bool to_server)
{
	struct iov_iter iter;

	if (import_ubuf(to_server ? ITER_DEST : ITER_SOURCE,
			u64_to_user_ptr(addr), len, &iter))
		return 0;
	return ubd_copy_iter(rq, 0, &iter, to_server);
}

/* ---- lending ---- */

/* The request of a tag while it is with the server, or NULL. */
struct request *ubd_borrow(struct ubd_queue *q, unsigned int tag)
{
	struct ubd_io *io = &q->ios[tag];
	struct request *rq = NULL;

	spin_lock(&io->lock);
	if (io->state == UBD_IO_SERVER) {
		rq = io->req;
		refcount_inc(&ubd_rq(rq)->refs);
		atomic_inc(&q->lent);
	}
	spin_unlock(&io->lock);
	return rq;
}

/* Any context. */
void ubd_return(struct ubd_queue *q, struct request *rq)
{
	struct ubd_device *ub = q->ub;

	/* First: it is the request that keeps the device. */
	if (atomic_dec_and_test(&q->lent))
		ubd_tag_returned(ub);
	ubd_request_put(ub, rq);
}

/* ---- USER_COPY ---- */

/* A fault may take as long as it likes; nothing is borrowed for that long. */
static size_t ubd_copy_nofault(struct request *rq, size_t skip,
			       struct iov_iter *iter, bool to_server)
{
	size_t done;

	pagefault_disable();
	done = ubd_copy_iter(rq, skip, iter, to_server);
	pagefault_enable();
	return done;
}

/* Is there at least the first page of the caller's memory now? */
static bool ubd_fault_in(struct iov_iter *iter, bool to_server)
{
	size_t len = min_t(size_t, iov_iter_count(iter), PAGE_SIZE);
	size_t left = to_server ? fault_in_iov_iter_writeable(iter, len) :
				  fault_in_iov_iter_readable(iter, len);

	return left < len && !fatal_signal_pending(current);
}

/* Which request and where in it; NULL if there is none such. */
static struct request *ubd_borrow_at(struct ubd_device *ub, loff_t pos,
				     struct ubd_queue **q, size_t *skip)
{
	unsigned int q_id, tag;

	if (!(ub->info.flags & UBLK_F_USER_COPY) || pos < UBLKSRV_IO_BUF_OFFSET)
		return NULL;
	pos -= UBLKSRV_IO_BUF_OFFSET;
	if (pos >= UBLKSRV_IO_BUF_TOTAL_SIZE)
		return NULL;
	*skip = pos & UBLK_IO_BUF_BITS_MASK;
	tag = (pos >> UBLK_TAG_OFF) & UBLK_TAG_BITS_MASK;
	q_id = (pos >> UBLK_QID_OFF) & UBLK_QID_BITS_MASK;
	if (q_id >= ub->info.nr_hw_queues)
		return NULL;
	*q = ub->queues[array_index_nospec(q_id, ub->info.nr_hw_queues)];
	if (tag >= (*q)->depth)
		return NULL;
	return ubd_borrow(*q, array_index_nospec(tag, (*q)->depth));
}

/* As much as can be had without a fault; 0: there is none, or no more of it. */
static ssize_t ubd_user_copy_some(struct ubd_device *ub, loff_t pos,
				  struct iov_iter *iter, enum req_op op,
				  bool *more)
{
	struct ubd_queue *q;
	struct request *rq;
	size_t skip, size;
	ssize_t ret;

	rq = ubd_borrow_at(ub, pos, &q, &skip);
	if (!rq)
		return -EINVAL;
	size = blk_rq_bytes(rq);
	/* What is written goes to the server, what is read comes from it. */
	if (req_op(rq) != op)
		ret = -EACCES;
	else if (skip > size)
		ret = -EINVAL;
	else
		ret = ubd_copy_nofault(rq, skip, iter, op == REQ_OP_WRITE);
	*more = ret >= 0 && skip + ret < size && iov_iter_count(iter);
	ubd_return(q, rq);
	return ret;
}

static ssize_t ubd_user_copy(struct kiocb *iocb, struct iov_iter *iter,
			     enum req_op op)
{
	struct ubd_device *ub = iocb->ki_filp->private_data;
	ssize_t ret, done = 0;
	bool more = true;

	while (more) {
		ret = ubd_user_copy_some(ub, iocb->ki_pos, iter, op, &more);
		if (ret < 0)
			return done ?: ret;
		done += ret;
		iocb->ki_pos += ret;
		if (more && !ubd_fault_in(iter, op == REQ_OP_WRITE))
			return done ?: -EFAULT;
	}
	return done;
}

ssize_t ubd_ch_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	return ubd_user_copy(iocb, to, REQ_OP_WRITE);
}

ssize_t ubd_ch_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	return ubd_user_copy(iocb, from, REQ_OP_READ);
}
