/* SPDX-License-Identifier: GPL-2.0 */
/* Counting bios: ours per operation and answer, and the front's iostat. */
#ifndef UBD_COUNT_H
#define UBD_COUNT_H

#include <linux/part_stat.h>

#include "ubd.h"

/*
 * this_cpu operations need no section around them, and address the counter
 * through the segment register: half the instructions of part_stat_add().
 */
static __always_inline void ubd_iostat(struct block_device *bdev, int sgrp,
				       unsigned int sectors)
{
	struct disk_stats __percpu *stats = bdev->bd_stats;

	this_cpu_inc(stats->ios[sgrp]);
	this_cpu_add(stats->sectors[sgrp], sectors);
}

/*
 * bdev_start_io_acct() and its end, in a third of the instructions as long as
 * jiffies are what they were at the disk's last bio: then all there is to do is
 * to count. Most often they are.
 */
static __always_inline unsigned long ubd_acct_begin(struct block_device *bdev,
						    enum req_op op)
{
	unsigned long now = READ_ONCE(jiffies);

	if (unlikely(READ_ONCE(bdev->bd_stamp) != now) ||
	    unlikely(bdev_is_partition(bdev)))
		return bdev_start_io_acct(bdev, op, now);
	part_stat_lock();
	part_stat_local_inc(bdev, in_flight[op_is_write(op)]);
	part_stat_unlock();
	return now;
}

static __always_inline void ubd_acct_finish(struct block_device *bdev,
					    enum req_op op,
					    unsigned int sectors,
					    unsigned long start)
{
	if (unlikely(READ_ONCE(jiffies) != start) ||
	    unlikely(READ_ONCE(bdev->bd_stamp) != start) ||
	    unlikely(bdev_is_partition(bdev))) {
		bdev_end_io_acct(bdev, op, sectors, start);
		return;
	}
	part_stat_lock();
	ubd_iostat(bdev, op_stat_group(op), sectors);
	part_stat_local_dec(bdev, in_flight[op_is_write(op)]);
	part_stat_unlock();
}

/*
 * Count one bio of ours and of the front disk's iostat. Untracked bios have no
 * end we could see: ios and sectors are right, time and in-flight stay 0.
 * Declined bios and files have their iostat done where they end.
 */
static __always_inline void ubd_count_io(struct ubd_device *ub,
					 struct bio *bio, unsigned int sectors,
					 int idx, enum ubd_kind kind,
					 bool iostat)
{
	struct block_device *bdev = bio->bi_bdev;
	u64 __percpu *count = &ub->stats->op[idx][kind];

	this_cpu_inc(count[0]);
	this_cpu_add(count[UBD_N_SECTORS], sectors);
	if (iostat && blk_queue_io_stat(bdev_get_queue(bdev))) {
		const int sgrp = idx == UBD_IDX_DISCARD ? STAT_DISCARD :
							  idx & 1;

		ubd_iostat(bdev, sgrp, sectors);
		if (unlikely(bdev_is_partition(bdev)))
			ubd_iostat(bdev_whole(bdev), sgrp, sectors);
	}
}

#endif /* UBD_COUNT_H */
