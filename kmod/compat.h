/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The only file that knows kernel versions. The rest of the driver is written
 * against the names below.
 */
#ifndef UBD_COMPAT_H
#define UBD_COMPAT_H

#include <linux/version.h>

#define UBD_IS_SERIES(major, minor)					\
	(LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0) &&	\
	 LINUX_VERSION_CODE < KERNEL_VERSION(major, (minor) + 1, 0))

#if !UBD_IS_SERIES(6, 12) && !UBD_IS_SERIES(7, 3)
#error "ubd_drv supports Linux 6.12 and 7.3"
#endif

/* Never run there. Programs are asked with preemption off. */
#ifdef CONFIG_PREEMPT_RT
#error "ubd_drv does not support PREEMPT_RT"
#endif

#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/blk-mq.h>
#include <linux/cgroup-defs.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/io_uring/cmd.h>

#include "ublk_new.h"

#define UBD_NO_SCHED_BY_DEFAULT	BLK_MQ_F_NO_SCHED_BY_DEFAULT

#if UBD_IS_SERIES(6, 12)
#define UBD_SHOULD_MERGE	BLK_MQ_F_SHOULD_MERGE
#else
#define UBD_SHOULD_MERGE	0	/* the default */
#endif

/* ---- io_uring ---- */

/* The ring a command came through: commands of one queue share one. */
static inline void *ubd_cmd_ring(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->ctx;
}

/* The command's own bytes: 16, or 80 in a ring of large entries. */
static inline const void *ubd_cmd_arg(const struct io_uring_cmd *cmd)
{
	return cmd->sqe->cmd;
}

static inline void ubd_cmd_done(struct io_uring_cmd *cmd, s32 ret,
				unsigned int issue_flags)
{
#if UBD_IS_SERIES(6, 12)
	io_uring_cmd_done(cmd, ret, 0, issue_flags);
#else
	io_uring_cmd_done(cmd, ret, issue_flags);
#endif
}

/*
 * ubd_cmd_in_task(cmd, fn) has fn(cmd, issue_flags) run in the task that issued
 * the command. UBD_CMD_TASK_WORK(fn), once, after the function: what the core
 * calls.
 */
#if UBD_IS_SERIES(6, 12)
#define UBD_CMD_TASK_WORK(fn)						\
static void fn##_work(struct io_uring_cmd *cmd, unsigned int issue_flags) \
{									\
	fn(cmd, issue_flags);						\
}
#else
#define UBD_CMD_TASK_WORK(fn)						\
static void fn##_work(struct io_tw_req req, io_tw_token_t tw)		\
{									\
	fn(io_uring_cmd_from_tw(req), IO_URING_CMD_TASK_WORK_ISSUE_FLAGS); \
}
#endif

#define ubd_cmd_in_task(cmd, fn)	io_uring_cmd_complete_in_task(cmd, fn##_work)

/* A request's memory in a ring's table of fixed buffers. */
#if UBD_IS_SERIES(6, 12)
#define UBD_HAS_BUFFERS	false

static inline int ubd_register_request(struct io_uring_cmd *cmd,
				       struct request *rq,
				       void (*release)(void *priv),
				       unsigned int index,
				       unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

static inline int ubd_unregister_request(struct io_uring_cmd *cmd,
					 unsigned int index,
					 unsigned int issue_flags)
{
	return -EOPNOTSUPP;
}

/* Nor has it multishot commands. */
struct io_br_sel {
	union {
		void __user *addr;
		ssize_t val;
	};
};

#define IORING_URING_CMD_MULTISHOT	(1U << 1)

static inline struct io_br_sel
io_uring_cmd_buffer_select(struct io_uring_cmd *cmd, unsigned int group,
			   size_t *len, unsigned int issue_flags)
{
	return (struct io_br_sel) { .val = -EOPNOTSUPP };
}

static inline bool io_uring_mshot_cmd_post_cqe(struct io_uring_cmd *cmd,
					       struct io_br_sel *sel,
					       unsigned int issue_flags)
{
	return true;
}
#else
#define UBD_HAS_BUFFERS	true
#define ubd_register_request	io_buffer_register_request
#define ubd_unregister_request	io_buffer_unregister
#endif

/* ---- writeback throttling ---- */

/*
 * None by default on the hidden disk: it judges a disk by all of its I/O, and
 * this one sees only what was declined. It also reads the clock twice a request.
 * 7.3 is told before the disk is added. 6.12 is told afterwards, by what is
 * exported for elevators, and goes on measuring for nobody if not told to stop.
 */
#if UBD_IS_SERIES(6, 12)
static inline void ubd_no_throttling_before(struct gendisk *disk)
{
}

#ifdef CONFIG_BLK_WBT
void wbt_disable_default(struct gendisk *disk);

static inline void ubd_no_throttling_after(struct gendisk *disk)
{
	wbt_disable_default(disk);
	blk_queue_flag_clear(QUEUE_FLAG_STATS, disk->queue);
}
#else
static inline void ubd_no_throttling_after(struct gendisk *disk)
{
}
#endif
#else
static inline void ubd_no_throttling_before(struct gendisk *disk)
{
	blk_queue_flag_set(QUEUE_FLAG_DISABLE_WBT_DEF, disk->queue);
}

static inline void ubd_no_throttling_after(struct gendisk *disk)
{
}
#endif

/* ---- bios ---- */

/* NULL when there is no memory, or the bio must not be split. */
static inline struct bio *ubd_bio_split(struct bio *bio, unsigned int sectors,
					struct bio_set *bs)
{
	struct bio *first = bio_split(bio, sectors, GFP_NOIO, bs);

	return IS_ERR(first) ? NULL : first;
}

/* Resume point of a bio within its current bvec, for an iov_iter. */
static inline unsigned int ubd_bio_iov_offset(const struct bio *bio)
{
#if UBD_IS_SERIES(6, 12)
	return bio->bi_iter.bi_bvec_done;
#else
	return bio->bi_iter.bi_offset;
#endif
}

/* What is left of the bio. */
static inline void ubd_zero_fill_bio(struct bio *bio)
{
#if UBD_IS_SERIES(6, 12)
	zero_fill_bio_iter(bio, bio->bi_iter);
#else
	zero_fill_bio(bio);
#endif
}

/*
 * To its cgroup a bio counts at the device that it is at now. Preemption is on:
 * the first of a cgroup for a device takes locks that may sleep (PREEMPT_RT).
 */
static __always_inline void ubd_bio_associate(struct bio *bio)
{
#ifdef CONFIG_BLK_CGROUP
	struct cgroup_subsys_state *css = bio_blkcg_css(bio);

	/* Unlike the root, others are only held by what is being replaced. */
	if (css && css->parent) {
		rcu_read_lock();
		bio_associate_blkg_from_css(bio, css);
		rcu_read_unlock();
	} else {
		bio_associate_blkg_from_css(bio, css);
	}
#endif
}

/*
 * bio_set_dev() in half the instructions. With @checked, the end of the device
 * has been checked, and there is no partition to add.
 */
static __always_inline void ubd_bio_set_dev(struct bio *bio,
					    struct block_device *bdev,
					    bool checked)
{
	unsigned short flags = bio->bi_flags;

	flags &= ~(1U << BIO_REMAPPED | 1U << BIO_BPS_THROTTLED);
	bio->bi_flags = flags | (checked ? 1U << BIO_REMAPPED : 0);
	bio->bi_bdev = bdev;
	ubd_bio_associate(bio);
}

/* ---- times of files ---- */

/*
 * Sets the times of a file that is opened not to do it; the caller holds off
 * freezing. In 7.3 file_update_time() leaves such files alone.
 */
#if UBD_IS_SERIES(6, 12)
static inline void ubd_update_times(struct file *file)
{
	file_update_time(file);
}
#else
static inline void ubd_update_times(struct file *file)
{
	struct inode *inode = file_inode(file);

	/* It is open for writing: its mount is, but for an emergency. */
	if (IS_NOCMTIME(inode) || sb_rdonly(inode->i_sb))
		return;
	if (inode->i_op->update_time)
		inode->i_op->update_time(inode, FS_UPD_CMTIME, 0);
	else
		generic_update_time(inode, FS_UPD_CMTIME, 0);
}
#endif

/* ---- credentials ---- */

/* The calling thread acts as @cred from now on, and holds it. */
static inline void ubd_assume_cred(const struct cred *cred)
{
#if !UBD_IS_SERIES(6, 12)
	get_cred(cred);		/* there it is override_creds() that does */
#endif
	put_cred(override_creds(cred));
}

#endif /* UBD_COMPAT_H */
