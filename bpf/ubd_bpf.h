/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The contract between the ubd driver and a mapping program. This header is
 * all that the author of a program includes; the driver and the tools include
 * it too.
 *
 * A program is a struct_ops map of type ubd_bpf_ops:
 *
 *	SEC("struct_ops/map")
 *	int BPF_PROG(my_map, struct ubd_bpf_io *io)
 *	{
 *		io->slot = 0;
 *		io->map_sector = io->sector;
 *		return UBD_MAP_BACKING;
 *	}
 *
 *	SEC(".struct_ops.link")
 *	struct ubd_bpf_ops my_ops = { .map = (void *)my_map, .name = "my" };
 *
 * All sectors are 512 bytes.
 */
#ifndef UBD_BPF_H
#define UBD_BPF_H

#ifdef __bpf__
#include <linux/bpf.h>
#include <linux/errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#else
#include <linux/types.h>
#endif

#define UBD_OPS_NAME_LEN	16	/* with the terminating NUL */
#define UBD_MAX_SLOTS		64	/* slots of one device */

/*
 * The verdict: what map() returns. A negative value is an error for the
 * submitter: -EIO, -ENOSPC, -EREMOTEIO, -ENODATA, and -EOPNOTSUPP for
 * discards. Everything else is a bad verdict: counted, then declined.
 */
enum ubd_verdict {
	UBD_MAP_DECLINE = 0,	/* ask the daemon */
	UBD_MAP_BACKING = 1,	/* io->slot at io->map_sector has it */
	UBD_MAP_ZERO	= 2,	/* reads as zeroes; nothing to do for discards */
};

/* io->op, with the values of UBLK_IO_OP_* */
enum ubd_op {
	UBD_OP_READ		= 0,
	UBD_OP_WRITE		= 1,
	UBD_OP_FLUSH		= 2,	/* never shown to a program */
	UBD_OP_DISCARD		= 3,	/* shown with UBD_OPS_WANT_DISCARD */
	UBD_OP_WRITE_ZEROES	= 5,	/* shown with UBD_OPS_WANT_DISCARD */
};

/* io->flags, with the values of UBLK_IO_F_* */
#define UBD_IO_META	(1U << 11)	/* file system metadata */
#define UBD_IO_FUA	(1U << 13)	/* durable before it completes */
#define UBD_IO_NOUNMAP	(1U << 15)	/* write zeroes, keep the blocks */
#define UBD_IO_SWAP	(1U << 16)	/* a swap page */

/* ubd_bpf_ops.flags */
#define UBD_OPS_WANT_DISCARD	(1U << 0)	/* show DISCARD and WRITE_ZEROES too */
#define UBD_OPS_DISCARD_WRITES	(1U << 1)	/* ZERO may answer WRITE: data is dropped */
#define UBD_OPS_TRACKED		(1U << 2)	/* UBD_CMD_FENCE waits for mapped I/O: for maps that move */
#define UBD_OPS_FLAGS_ALL	(UBD_OPS_WANT_DISCARD | \
				 UBD_OPS_DISCARD_WRITES | UBD_OPS_TRACKED)

/*
 * One bio, or what is left of it. The first half is the question and is
 * read-only to the program; the second half is the answer.
 */
struct ubd_bpf_io {
	__u64 sector;		/* first sector on the ubd device */
	__u64 cookie;		/* the value given when the program was bound */
	__u32 nr_sectors;	/* length, never 0 */
	__u32 dev_id;		/* N of /dev/ubdbN */
	__u32 op;		/* enum ubd_op */
	__u32 flags;		/* UBD_IO_* */
	__u32 nr_slots;		/* valid slot numbers are below this */

	__u32 slot;		/* answer to UBD_MAP_BACKING: where */
	__u64 map_sector;	/* first sector within the slot's window */
	__u32 map_sectors;	/* how far this verdict holds, whichever it
				 * is; preset to nr_sectors */
	__u32 reserved;
};

/* What a program provides; lives in the kernel while it is registered. */
struct ubd_bpf_ops {
	int (*map)(struct ubd_bpf_io *io);
	__u32 flags;			/* UBD_OPS_* */
	char name[UBD_OPS_NAME_LEN];	/* unique among registered programs */
};

#endif /* UBD_BPF_H */
