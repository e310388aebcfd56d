/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The channel to the daemon: what its files share about a queue, a tag, the
 * tag's command and its request.
 */
#ifndef UBD_CHANNEL_H
#define UBD_CHANNEL_H

#include "ubd.h"

enum ubd_io_state {
	UBD_IO_NONE,	/* no command: no server, or it was cancelled */
	UBD_IO_READY,	/* command held, waits for a request */
	UBD_IO_QUEUED,	/* request on its way: task work will deliver it */
	UBD_IO_COPYING,	/* data is being copied, in the server's context */
	UBD_IO_SERVER,	/* request is with the server, command completed */
	UBD_IO_ABORTED,	/* request ended early; task work ends the command */
};

/* One tag of one queue. */
struct ubd_io {
	spinlock_t lock;		/* protects state, cmd, req, addr */
	enum ubd_io_state state;
	struct llist_node node;		/* in ubd_queue.pending */
	struct io_uring_cmd *cmd;
	struct request *req;
	u64 addr;			/* the server's buffer for this tag, or
					 * how the next request is registered */
	bool alone;			/* not served by the queue's task and ring */
	bool lost;			/* its task or ring is gone */
	bool needs_data;		/* a write of which the server has none yet */
	bool has_buffer;		/* @req is registered at @addr; only @task */
	struct task_struct *task;	/* the only one that may serve the tag */
	void *ring;			/* its io_uring instance */
} ____cacheline_aligned_in_smp;

struct ubd_queue {
	struct ubd_device *ub;
	u16 q_id;
	u16 depth;
	u16 nr_ready;			/* FETCHed tags; ub->mutex */
	bool dead;			/* a task or ring went; until reopened */
	bool lends;			/* borrowers may outlast COMMIT; see copy.c */
	atomic_t lent;			/* borrowed and not returned */
	struct task_struct *daemon;	/* of the first FETCH: most tags are its */
	void *ring;			/* its io_uring instance */
	void *descs;			/* mmapped read-only by the server */
	u16 desc_bytes;			/* from one to the next */
	struct llist_head pending;	/* ios that wait for task work */
	/* Only with BATCH_IO; see fetch.c */
	bool batches;
	bool fetching;			/* a FETCH delivers; fetch_lock */
	spinlock_t fetch_lock;
	struct io_uring_cmd *fetches;	/* the idle ones; fetch_lock */
	struct llist_node *backlog;	/* ios, of who is fetching */
	struct ubd_io ios[];
};

/* A request whose I/O the driver does itself (forward.c). */
struct ubd_forwarding {
	atomic_t pending;		/* clones that have not ended, plus one */
	blk_status_t status;		/* of the first that failed */
	unsigned int bytes;		/* to do; the rest is the server's again */
	struct page *page;		/* pinned, of the word below; or NULL */
	struct ubd_install word;
	union {
		struct work_struct work; /* to install it; may sleep: on ub->end_wq */
		struct request *next;	/* done, in struct ubd_forward_plug */
	};
	struct bio clone;		/* of the first bio */
};

/* Per request of the hidden disk. */
struct ubd_rq {
	unsigned long start;		/* jiffies, for iostat of the front */
	struct block_device *acct;	/* NULL: not accounted */
	struct ubd_forwarding fwd;
	/* Only of a queue that lends: */
	refcount_t refs;		/* the server's, and each borrower's */
	bool dropped;			/* the server was lost */
	blk_status_t status;		/* of COMMIT, with the bytes done */
	size_t bytes;
};

static inline struct ubd_rq *ubd_rq(struct request *rq)
{
	return blk_mq_rq_to_pdu(rq);
}

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

/* Is the data of writes copied to, and that of reads from, the tag's buffer? */
static inline bool ubd_maps_data(struct ubd_device *ub)
{
	return !(ub->info.flags & UBD_LENDING);
}

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

/* queue.c */
extern const struct blk_mq_ops ubd_mq_ops;
int ubd_queues_alloc(struct ubd_device *ub);
void ubd_queues_free(struct ubd_device *ub);
void ubd_queue_reset(struct ubd_queue *q);
bool ubd_hand_data(struct ubd_queue *q, struct ubd_io *io, struct request *rq,
		   struct io_uring_cmd *cmd, unsigned int issue_flags);
bool ubd_end_server_requests(struct ubd_queue *q, struct task_struct *task,
			     void *ring);
void ubd_task_lost(struct ubd_queue *q, struct task_struct *task, void *ring);
bool ubd_server_is_busy(struct ubd_device *ub);
struct io_uring_cmd *ubd_take_commands(struct ubd_device *ub);
void ubd_end_commands(struct io_uring_cmd *list);
size_t ubd_descs_size(struct ubd_device *ub, u16 depth);

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
blk_status_t ubd_final_status(struct request *rq, blk_status_t status);

/* channel.c */
extern const struct file_operations ubd_ch_fops;
void ubd_kill_server(struct ubd_device *ub);
void ubd_all_ready(struct ubd_device *ub);
int ubd_not_yours(struct ubd_queue *q);
int ubd_io_hold(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags);
/* The tag's idle command, taken from it; @cmd NULL: whichever it is. */
struct io_uring_cmd *ubd_take_command(struct ubd_io *io,
				      struct io_uring_cmd *cmd);

/* copy.c */
size_t ubd_copy(struct request *rq, u64 addr, size_t len, bool to_server);
struct request *ubd_borrow(struct ubd_queue *q, unsigned int tag);
void ubd_return(struct ubd_queue *q, struct request *rq);
ssize_t ubd_ch_read_iter(struct kiocb *iocb, struct iov_iter *to);
ssize_t ubd_ch_write_iter(struct kiocb *iocb, struct iov_iter *from);

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

/* batch.c */
int ubd_batch_cmd(struct ubd_device *ub, struct io_uring_cmd *cmd,
		  unsigned int issue_flags);

/* fetch.c */
int ubd_batch_fetch(struct ubd_queue *q, struct io_uring_cmd *cmd,
		    const struct ublk_batch_io *batch, unsigned int issue_flags);
void ubd_batch_queue(struct ubd_queue *q, struct ubd_io *io);
struct io_uring_cmd *ubd_batch_take(struct ubd_queue *q,
				    struct io_uring_cmd *cmd);

/* forward.c */
int ubd_forward_init_device(struct ubd_device *ub);
int ubd_forward(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u32 slot, u64 sector,
		unsigned int issue_flags);

#endif /* UBD_CHANNEL_H */
