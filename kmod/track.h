/* SPDX-License-Identifier: GPL-2.0 */
/* Tracked mode, as the front and the files use it. */
#ifndef UBD_TRACK_H
#define UBD_TRACK_H

#include "ubd.h"

/* In place of an epoch: */
#define UBD_UNTRACKED	(-1)	/* from the front */
#define UBD_FORWARDED	(-2)	/* a clone: forward.c sees to its end */

void ubd_track_put(struct ubd_device *ub, int epoch);
void ubd_track_submit(struct ubd_device *ub, struct ubd_slot *slot,
		      struct bio *bio, u64 sector, int epoch);

/* Before map() is called, in the same RCU section as ubd_track_get(). */
static __always_inline int ubd_track_epoch(struct ubd_device *ub)
{
	return smp_load_acquire(&ub->epoch);
}

static __always_inline void ubd_track_get(struct ubd_device *ub, int epoch)
{
	this_cpu_inc(ub->epochs->nr[epoch]);
}

static inline void ubd_track_end(struct ubd_device *ub, int epoch)
{
	if (unlikely(epoch >= 0))
		ubd_track_put(ub, epoch);
}

#endif /* UBD_TRACK_H */
