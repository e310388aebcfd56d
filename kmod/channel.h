/* SPDX-License-Identifier: GPL-2.0 */
/* What the queue and the char device share about a tag and its command. */
#ifndef UBD_CHANNEL_H
#define UBD_CHANNEL_H

#include "ubd.h"

/* In the command's own space: which tag it serves. */
struct ubd_cmd_pdu {
	struct ubd_queue *q;
	struct ubd_io *io;
	struct io_uring_cmd *next;	/* of those that are about to end, or idle */
	/* Only of a FETCH_IO_CMDS, which has no tag: */
	u16 group;			/* of provided buffers */
	bool idle;			/* in q->fetches; q->fetch_lock */
};

static inline struct ubd_cmd_pdu *ubd_cmd_pdu(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_to_pdu(cmd, struct ubd_cmd_pdu);
}

/* Does declined I/O wait for the next server when there is none? */
static inline bool ubd_waits_for_server(struct ubd_device *ub)
{
	return (ub->info.flags & (UBLK_F_USER_RECOVERY |
				  UBLK_F_USER_RECOVERY_FAIL_IO)) ==
		       UBLK_F_USER_RECOVERY &&
	       !READ_ONCE(ub->fail_declined);
}

/* copy.c */
size_t ubd_copy(struct request *rq, u64 addr, size_t len, bool to_server);
struct request *ubd_borrow(struct ubd_queue *q, unsigned int tag);
void ubd_return(struct ubd_queue *q, struct request *rq);
ssize_t ubd_ch_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t ubd_ch_write_iter(struct kiocb *iocb, struct iov_iter *from);

/* Is the data of writes copied to, and that of reads from, the tag's buffer? */
static inline bool ubd_maps_data(struct ubd_device *ub)
{
	return !(ub->info.flags & UBD_LENDING);
}

/* batch.c */
int ubd_batch_cmd(struct ubd_device *ub, struct io_uring_cmd *cmd,
		  unsigned int issue_flags);

/* fetch.c */
int ubd_batch_fetch(struct ubd_queue *q, struct io_uring_cmd *cmd,
		    const struct ublk_batch_io *batch, unsigned int issue_flags);
void ubd_batch_queue(struct ubd_queue *q, struct ubd_io *io);
struct io_uring_cmd *ubd_batch_take(struct ubd_queue *q,
				    struct io_uring_cmd *cmd);

/* queue.c */
bool ubd_hand_data(struct ubd_queue *q, struct ubd_io *io, struct request *rq,
		   struct io_uring_cmd *cmd, unsigned int issue_flags);

/* zerocopy.c */
int ubd_auto_addr(struct io_uring_cmd *cmd, u64 *addr);
bool ubd_buffer_lend(struct ubd_queue *q, struct ubd_io *io, struct request *rq,
		     struct io_uring_cmd *cmd, unsigned int issue_flags);
void ubd_buffer_drop(struct ubd_io *io, struct io_uring_cmd *cmd,
		     unsigned int issue_flags);
int ubd_buffer_register(struct ubd_queue *q, unsigned int tag,
			struct io_uring_cmd *cmd, u64 index,
			unsigned int issue_flags);
int ubd_buffer_unregister(struct ubd_device *ub, struct io_uring_cmd *cmd,
			  u64 index, unsigned int issue_flags);

static inline bool ubd_auto_registers(struct ubd_device *ub)
{
	return ub->info.flags & UBLK_F_AUTO_BUF_REG;
}

static inline bool ubd_has_data(struct request *rq)
{
	return req_op(rq) == REQ_OP_READ || req_op(rq) == REQ_OP_WRITE;
}

static inline struct ublksrv_io_desc *ubd_desc(struct ubd_queue *q,
					       unsigned int tag)
{
	return q->descs + (size_t)tag * q->desc_bytes;
}

/* request.c */
void ubd_acct_start(struct ubd_device *ub, struct request *rq);
void ubd_end_request(struct request *rq, blk_status_t status);
void ubd_park(struct ubd_device *ub, struct request *rq);
void ubd_drop_request(struct ubd_device *ub, struct request *rq, bool seen);
size_t ubd_take_result(struct request *rq, u64 addr, s32 result,
		       blk_status_t *status);
void ubd_finish_request(struct request *rq, size_t bytes, blk_status_t status);
void ubd_commit_request(struct ubd_queue *q, struct request *rq, size_t bytes,
			blk_status_t status);
void ubd_request_put(struct ubd_device *ub, struct request *rq);
void ubd_fill_desc(struct ubd_queue *q, struct ubd_io *io, struct request *rq);
void ubd_tag_returned(struct ubd_device *ub);
void ubd_withdraw(struct request *rq);

int ubd_not_yours(struct ubd_queue *q);

/* channel.c: the tag's idle command, taken from it; @cmd NULL: whichever it is */
struct io_uring_cmd *ubd_take_command(struct ubd_io *io,
				      struct io_uring_cmd *cmd);

int ubd_io_hold(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags);

/* forward.c */
int ubd_forward(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u32 slot, u64 sector,
		unsigned int issue_flags);

/* channel.c */
void ubd_all_ready(struct ubd_device *ub);

#endif /* UBD_CHANNEL_H */
