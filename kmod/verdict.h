/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver thinks of an answer. Inline, because every mapped bio passes
 * here; shared with TEST_RUN, so that both say the same.
 */
#ifndef UBD_VERDICT_H
#define UBD_VERDICT_H

#include "ubd.h"

enum ubd_bad {
	UBD_GOOD,
	UBD_BAD_RETURN,		/* no verdict of ours */
	UBD_BAD_ERRNO,		/* an error that no disk returns */
	UBD_BAD_LENGTH,		/* map_sectors 0 or beyond the question */
	UBD_BAD_ALIGN,		/* not in logical blocks */
	UBD_BAD_SLOT,		/* no such slot */
	UBD_BAD_RANGE,		/* outside the slot's window */
	UBD_BAD_ACCESS,		/* write to a read-only slot */
	UBD_BAD_ZERO,		/* would drop written data */
};

static inline bool ubd_is_write(u32 op)
{
	return op != UBD_OP_READ;
}

/* May a program end an io with this error? */
static inline bool ubd_errno_allowed(int err, u32 op)
{
	switch (err) {
	case -EIO:
	case -ENOSPC:
	case -EREMOTEIO:
	case -ENODATA:
		return true;
	case -EOPNOTSUPP:
		return op == UBD_OP_DISCARD || op == UBD_OP_WRITE_ZEROES;
	default:
		return false;
	}
}

/* Where a mapped range would go; the slot itself may be dead, see the flags. */
static __always_inline enum ubd_bad
ubd_check_slot(const struct ubd_slot *slot, unsigned int flags,
	       const struct ubd_bpf_io *io, u32 op)
{
	u64 end = READ_ONCE(slot->nr_sectors);	/* changes under RESIZE_SLOT */
	u32 n = io->map_sectors;

	if (unlikely((io->map_sector | n) & slot->block_mask))
		return UBD_BAD_ALIGN;
	if (unlikely(io->map_sector >= end || n > end - io->map_sector))
		return UBD_BAD_RANGE;
	if (unlikely(ubd_is_write(op) && !(flags & UBD_SL_WRITE)))
		return UBD_BAD_ACCESS;
	return UBD_GOOD;
}

/* Everything but the slot's own limits. @block_mask is the front's. */
static __always_inline enum ubd_bad
ubd_check_verdict(int verdict, const struct ubd_bpf_io *io, u32 ops_flags,
		  unsigned int block_mask)
{
	u32 n = io->map_sectors;

	if (unlikely(n - 1 >= io->nr_sectors))
		return UBD_BAD_LENGTH;
	if (unlikely(n & block_mask))
		return UBD_BAD_ALIGN;
	if (likely(verdict == UBD_MAP_BACKING))
		return likely(io->slot < io->nr_slots) ? UBD_GOOD :
							 UBD_BAD_SLOT;
	if (verdict == UBD_MAP_DECLINE)
		return UBD_GOOD;
	if (verdict == UBD_MAP_ZERO)
		return io->op != UBD_OP_WRITE ||
			ops_flags & UBD_OPS_DISCARD_WRITES ? UBD_GOOD :
							     UBD_BAD_ZERO;
	if (verdict > 0)
		return UBD_BAD_RETURN;
	return ubd_errno_allowed(verdict, io->op) ? UBD_GOOD : UBD_BAD_ERRNO;
}

#endif /* UBD_VERDICT_H */
