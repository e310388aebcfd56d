/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The only file that knows kernel versions. The rest of the driver is written
 * against the names below.
 */
#ifndef UBD_COMPAT_H
#define UBD_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0) || \
	LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#error "ubd_drv supports Linux 6.12"
#endif

/* The hot path holds off preemption where such a kernel's spinlocks sleep. */
#ifdef CONFIG_PREEMPT_RT
#error "ubd_drv does not support PREEMPT_RT"
#endif

#include <linux/bio.h>
#include <linux/blk-cgroup.h>
#include <linux/io_uring/cmd.h>

#include "ublk_new.h"

#define UBD_NO_SCHED_BY_DEFAULT	BLK_MQ_F_NO_SCHED_BY_DEFAULT
#define UBD_SHOULD_MERGE	BLK_MQ_F_SHOULD_MERGE

/* The ring a command came through: commands of one queue share one. */
static inline void *ubd_cmd_ring(struct io_uring_cmd *cmd)
{
	return cmd_to_io_kiocb(cmd)->ctx;
}

/* NULL when there is no memory; newer kernels return an ERR_PTR. */
static inline struct bio *ubd_bio_split(struct bio *bio, unsigned int sectors,
					struct bio_set *bs)
{
	return bio_split(bio, sectors, GFP_NOIO, bs);
}

/* Resume point of a bio within its current bvec, for an iov_iter. */
static inline unsigned int ubd_bio_iov_offset(const struct bio *bio)
{
	return bio->bi_iter.bi_bvec_done;
}

/*
 * bio_set_dev() in half the instructions. With @checked, the end of the device
 * has been checked, and there is no partition to add. With preemption off, which
 * is RCU: the cgroup is only held by the association that is being replaced.
 */
static __always_inline void ubd_bio_set_dev(struct bio *bio,
					    struct block_device *bdev,
					    bool checked)
{
	unsigned short flags = bio->bi_flags;

	flags &= ~(1U << BIO_REMAPPED | 1U << BIO_BPS_THROTTLED);
	bio->bi_flags = flags | (checked ? 1U << BIO_REMAPPED : 0);
	bio->bi_bdev = bdev;
	bio_associate_blkg_from_css(bio, bio_blkcg_css(bio));
}

static inline void ubd_zero_fill_bio(struct bio *bio)
{
	zero_fill_bio_iter(bio, bio->bi_iter);
}

#endif /* UBD_COMPAT_H */
