/* SPDX-License-Identifier: GPL-2.0 */
/* What the queue and the char device share about a tag and its command. */
#ifndef UBD_CHANNEL_H
#define UBD_CHANNEL_H

#include "ubd.h"

/* In the command's own space: which tag it serves. */
struct ubd_cmd_pdu {
	struct ubd_queue *q;
	struct ubd_io *io;
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

/* queue.c */
size_t ubd_take_result(struct request *rq, u64 addr, s32 result,
		       blk_status_t *status);
void ubd_finish_request(struct request *rq, size_t bytes, blk_status_t status);
void ubd_tag_returned(struct ubd_device *ub);

/* channel.c: end an idle command; @cmd NULL: whichever is there */
void ubd_cancel_io(struct ubd_io *io, struct io_uring_cmd *cmd,
		   unsigned int issue_flags);

#endif /* UBD_CHANNEL_H */
