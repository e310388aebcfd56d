/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * ubd's own commands, beside ublk's: ioctls on /dev/ubd-control.
 *
 * Servers speak ublk's protocol (linux/ublk_cmd.h) over io_uring on
 * /dev/ubd-control and /dev/ubdcN; that part is not repeated here. These
 * commands add what ublk does not have: slots and programs. They use their
 * own _IOC type byte, so that no number of ublk's can ever collide.
 *
 * Every command that names a device wants CAP_SYS_ADMIN and the device's
 * owner. Reserved fields and unknown flags must be zero (-EINVAL).
 */
#ifndef UBD_CMD_H
#define UBD_CMD_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include "ubd_bpf.h"

#define UBD_IOC_TYPE	0xBD

/* struct ubd_features.features */
#define UBD_F_BPF_FASTPATH	(1ULL << 0)	/* programs can be bound */
#define UBD_F_BLOCK_SLOTS	(1ULL << 1)	/* slots may be block devices */
#define UBD_F_FILE_SLOTS	(1ULL << 2)	/* slots may be regular files */
#define UBD_F_TEST_RUN		(1ULL << 3)	/* UBD_CMD_TEST_RUN */
#define UBD_F_FENCE		(1ULL << 4)	/* UBD_OPS_TRACKED, UBD_CMD_FENCE */
#define UBD_F_FILE_INLINE	(1ULL << 5)	/* direct I/O on files without a thread */
#define UBD_F_FORWARD		(1ULL << 6)	/* UBD_U_IO_FORWARD */
#define UBD_F_POLICY		(1ULL << 7)	/* UBD_CMD_SET_POLICY */
#define UBD_F_RESIZE_SLOT	(1ULL << 8)	/* UBD_CMD_RESIZE_SLOT */

struct ubd_features {
	__u64 features;			/* UBD_F_* */
	__u64 ublk_features;		/* UBLK_F_* as GET_FEATURES gives them */
	__u32 max_slots;
	__u32 max_queue_depth;
	char version[16];		/* of the driver, NUL-terminated */
};

/* struct ubd_slot_reg.flags and ubd_slot_info.flags */
#define UBD_SLOT_WRITE		(1U << 0)	/* may be written; fd must be writable */
#define UBD_SLOT_DIRECT		(1U << 1)	/* file: bypass the page cache */
#define UBD_SLOT_FILE		(1U << 2)	/* info only: a regular file */
#define UBD_SLOT_DRAINING	(1U << 3)	/* info only: unregistered, still held
						 * because the front is open */
#define UBD_SLOT_DIRTY		(1U << 4)	/* info only: was written to */

#define UBD_SLOT_ANY	(~0U)

/* Register an open file or block device as a slot. */
struct ubd_slot_reg {
	__u32 dev_id;
	__s32 fd;
	__u32 flags;		/* UBD_SLOT_WRITE, UBD_SLOT_DIRECT */
	__u32 slot;		/* in: number or UBD_SLOT_ANY; out: number */
	__u64 offset;		/* sectors; start of the window in the backing */
	__u64 nr_sectors;	/* in: window length, 0 = to the end; out: length */
};

struct ubd_slot_unreg {
	__u32 dev_id;
	__u32 slot;
};

struct ubd_slot_info {
	__u32 slot;
	__u32 flags;		/* UBD_SLOT_* */
	__u64 offset;		/* sectors */
	__u64 nr_sectors;
	__u64 dev;		/* block device: its dev_t as (major << 32) | minor;
				 * file: the file system's */
	__u64 ino;		/* file: inode number; else 0 */
};

struct ubd_slot_list {
	__u32 dev_id;
	__u32 nr;		/* in: room at addr; out: number of slots */
	__u64 addr;		/* array of struct ubd_slot_info */
};

/* Bind a registered program to a device; replaces the one bound before. */
struct ubd_bind {
	__u32 dev_id;
	__u32 flags;		/* 0 */
	__u64 cookie;		/* io->cookie of this device */
	char name[UBD_OPS_NAME_LEN];
};

struct ubd_unbind {
	__u32 dev_id;
	__u32 reserved;
};

/* struct ubd_prog_info.state */
#define UBD_PROG_LIVE		0
#define UBD_PROG_EJECTED	1	/* reason says why; update or unload it */

#define UBD_REASON_LEN	128

struct ubd_prog_info {
	char name[UBD_OPS_NAME_LEN];
	__u32 flags;		/* UBD_OPS_* */
	__u32 state;		/* UBD_PROG_* */
	__u32 nr_bound;		/* devices it is bound to */
	__u32 reserved;
	__u64 bad_verdicts;	/* since it was registered or updated */
	char reason[UBD_REASON_LEN];	/* last bad verdict, or empty */
};

struct ubd_prog_list {
	__u32 nr;		/* in: room at addr; out: number of programs */
	__u32 reserved;
	__u64 addr;		/* array of struct ubd_prog_info */
};

/*
 * Run a registered program on a made-up io; no I/O happens. The verdict is
 * checked as the driver would check it against a device with io.nr_slots
 * slots, each of slot_sectors sectors and open for everything.
 */
struct ubd_test_run {
	char name[UBD_OPS_NAME_LEN];
	struct ubd_bpf_io io;	/* in: question and presets; out: answer */
	__u64 slot_sectors;
	__u32 block_size;	/* bytes; logical block of device and slots */
	__s32 verdict;		/* out: what map() returned */
	__u32 bad;		/* out: 1 if the driver would refuse it */
	__u32 reserved;
	char reason[UBD_REASON_LEN];	/* out: why */
};

/*
 * Wait until every bio that a UBD_OPS_TRACKED program mapped, on the strength
 * of what its maps held before this call, has ended. Bios that begin later may
 * be in flight at the return; they have seen what was stored before the call.
 * -EINTR: killed while waiting; the fence did not hold.
 */
struct ubd_fence {
	__u32 dev_id;
	__u32 reserved;
};

/* struct ubd_policy.flags: what happens while no server is there */
#define UBD_POLICY_STOP_MAPPED	(1U << 0)	/* mapped I/O declines, hence shares
						 * the fate of all declined I/O */

struct ubd_policy {
	__u32 dev_id;
	__u32 flags;		/* UBD_POLICY_* */
};

/* Change the length of a slot's window; its start stays. */
struct ubd_slot_resize {
	__u32 dev_id;
	__u32 slot;
	__u64 nr_sectors;	/* in: window length, 0 = to the end; out: length */
};

#define UBD_CMD_FEATURES	_IOR(UBD_IOC_TYPE, 0x01, struct ubd_features)
#define UBD_CMD_REG_SLOT	_IOWR(UBD_IOC_TYPE, 0x02, struct ubd_slot_reg)
#define UBD_CMD_UNREG_SLOT	_IOW(UBD_IOC_TYPE, 0x03, struct ubd_slot_unreg)
#define UBD_CMD_LIST_SLOTS	_IOWR(UBD_IOC_TYPE, 0x04, struct ubd_slot_list)
#define UBD_CMD_BIND		_IOW(UBD_IOC_TYPE, 0x05, struct ubd_bind)
#define UBD_CMD_UNBIND		_IOW(UBD_IOC_TYPE, 0x06, struct ubd_unbind)
#define UBD_CMD_LIST_PROGS	_IOWR(UBD_IOC_TYPE, 0x07, struct ubd_prog_list)
#define UBD_CMD_TEST_RUN	_IOWR(UBD_IOC_TYPE, 0x08, struct ubd_test_run)
#define UBD_CMD_FENCE		_IOW(UBD_IOC_TYPE, 0x09, struct ubd_fence)
#define UBD_CMD_SET_POLICY	_IOW(UBD_IOC_TYPE, 0x0a, struct ubd_policy)
#define UBD_CMD_RESIZE_SLOT	_IOWR(UBD_IOC_TYPE, 0x0b, struct ubd_slot_resize)

/*
 * FORWARD, an I/O command on /dev/ubdcN in place of COMMIT_AND_FETCH: the
 * driver does the request's data I/O on a slot and ends the request; the
 * server's buffer stays as it was fetched. From here on the request is the
 * driver's: it survives the server.
 *
 *	sqe->cmd   struct ubd_forward
 *	sqe->len   sectors to do, from the request's start; 0: all of it. The
 *		   rest comes to the server again, as a request of its own.
 *	sqe->addr  address of a struct ubd_install, or 0
 *
 * Ends as COMMIT_AND_FETCH does: with the next request of the tag. Otherwise
 * nothing was done, and the request is still the server's:
 *
 *	-EINVAL	     no such slot, not open for the operation, out of its window,
 *		     misaligned, or a flush; a word that is misaligned
 *	-EOPNOTSUPP  the slot is a disk that is read-only, or has no discard or
 *		     write-zeroes
 *	-EFAULT	     bad addresses of the install
 *
 * What fails later fails the request. FUA goes to the slot; of a server without
 * UBLK_ATTR_VOLATILE_CACHE, every forwarded write is durable when it ends. The
 * slot gets the flushes that the front disk gets, like every slot that was
 * written to. FENCE does not wait for what is forwarded: that it has ended, its
 * server knows by the tag's next request.
 */
struct ubd_forward {
	__u16 q_id;
	__u16 tag;
	__u32 slot;
	__u64 sector;		/* in the slot */
};

/*
 * One word of the server's memory, such as an entry of a mapped table, that is
 * set when the data is there and before the request ends: compare-and-exchange,
 * from @expect to @value. Not done if the I/O fails.
 */
struct ubd_install {
	__u64 addr;		/* of the word; multiple of 8 */
	__u64 expect;
	__u64 value;
};

#define UBD_U_IO_FORWARD	_IOWR(UBD_IOC_TYPE, 0x20, struct ubd_forward)

#endif /* UBD_CMD_H */
