/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ubd: the structures that the rooms of the driver share.
 *
 *	front.c	     bio in, verdict asked, bio mapped / answered / declined
 *	track.c	     tracked bios and the fence
 *	slot.c	     table of backings
 *	file.c	     I/O on regular files;  inline.c by the submitter, worker.c not; fio.c: their memory
 *	flush.c	     flush fan-out
 *	bpf.c	     struct_ops hook;  prog.c: registry of programs, bindings
 *	queue.c	     hidden blk-mq disk -> daemon
 *	request.c    what a request tells the daemon, and how it ends
 *	channel.c    /dev/ubdcN: FETCH, COMMIT, mmap, cancel;  batch.c, fetch.c: many
 *	forward.c    FORWARD: the driver does a declined request's I/O
 *	copy.c	     a request's data, to the server and back;  zerocopy.c: shared
 *	recover.c    a server is lost, quiesced, followed by another
 *	access.c     who may do what
 *	control.c    ublk's commands on /dev/ubd-control;  ioctl.c: ubd's own
 *	lifecycle.c  ADD, DEL;  disks.c: START, STOP, the two disks
 *	stats.c	     counters and sysfs
 */
#ifndef UBD_H
#define UBD_H

#include <linux/blkdev.h>
#include <linux/blk-mq.h>
#include <linux/cdev.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/llist.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/wait.h>

#include "compat.h"
#include "ubd_cmd.h"

#define UBD_VERSION	"0.1.0"
#define UBD_MAX_DEVICES	1024

/* What of ublk's features every device has, and what it may ask for. */
#define UBD_UBLK_ALWAYS \
	((u64)UBLK_F_URING_CMD_COMP_IN_TASK | UBLK_F_CMD_IOCTL_ENCODE | \
	 UBLK_F_PER_IO_DAEMON | UBLK_F_SAFE_STOP_DEV | \
	 (UBD_HAS_BUFFERS ? UBLK_F_BUF_REG_OFF_DAEMON : 0))
#define UBD_UBLK_FEATURES \
	(UBD_UBLK_ALWAYS | UBLK_F_USER_RECOVERY | \
	 UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_USER_RECOVERY_FAIL_IO | \
	 UBLK_F_UPDATE_SIZE | UBLK_F_QUIESCE | UBLK_F_NO_AUTO_PART_SCAN | \
	 UBLK_F_USER_COPY | UBLK_F_NEED_GET_DATA | UBLK_F_UNPRIVILEGED_DEV | \
	 UBLK_F_IO_DESC_SIZE | \
	 (UBD_HAS_BUFFERS ? UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG | \
			    UBLK_F_BATCH_IO : 0))

/* The server gets at requests in ways that may outlast its COMMIT. */
#define UBD_LENDING \
	((u64)UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG)

/* Devices that belong to others than root; as many as ublk allows. */
#define UBD_MAX_UNPRIVILEGED	64

/* How long STOP and DEL are polite to a server before they kill it. */
#define UBD_PATIENCE	(5 * HZ)

struct bpf_link;
struct ubd_fio;
struct ubd_device;
struct ubd_queue;

/* ---- counters (stats.c) ---- */

/* The values of io->op, of which one is not used. */
enum ubd_op_idx {
	UBD_IDX_READ		= UBD_OP_READ,
	UBD_IDX_WRITE		= UBD_OP_WRITE,
	UBD_IDX_FLUSH		= UBD_OP_FLUSH,
	UBD_IDX_DISCARD		= UBD_OP_DISCARD,
	UBD_IDX_WRITE_ZEROES	= UBD_OP_WRITE_ZEROES,
	UBD_IDX_NR,
};

/* Order matters: sectors of kind k are at k + UBD_N_SECTORS. */
enum ubd_kind {
	UBD_N_MAPPED,
	UBD_N_ZERO,
	UBD_N_DECLINED,
	UBD_N_ERROR,
	UBD_N_BAD,
	UBD_N_SECTORS,
	UBD_N_MAPPED_SECTORS = UBD_N_SECTORS,
	UBD_N_ZERO_SECTORS,
	UBD_N_DECLINED_SECTORS,
	UBD_N_NR,
};

/* One per CPU and device. */
struct ubd_stats {
	u64 op[UBD_IDX_NR][UBD_N_NR];
	u64 splits;
	u64 eagain;
	u64 file_inline;
	u64 file_worker;
	u64 inline_eagain;
	u64 tracked;
	u64 fences;
	u64 flush_slots;
	u64 flush_daemon;
	u64 forwarded[UBD_IDX_NR][2];	/* requests, sectors */
};

/* ---- slots (slot.c) ---- */

/* ubd_slot.flags: tested together with one load on the hot path */
#define UBD_SL_LIVE	(1U << 0)	/* may be named by a verdict */
#define UBD_SL_WRITE	(1U << 1)	/* opened for writing */
#define UBD_SL_FILE	(1U << 2)	/* regular file, through the worker */
#define UBD_SL_WHOLE	(1U << 3)	/* whole disk: no partition offset */
#define UBD_SL_DIRECT	(1U << 4)	/* file opened with O_DIRECT */
#define UBD_SL_DRAINING	(1U << 5)	/* unregistered while the front is open */
#define UBD_SL_NOWAIT	(1U << 6)	/* direct file that can say EAGAIN */

/*
 * What a verdict may name. Read without locks: @flags is set last, with release
 * semantics, and a used slot changes no other field but its length and the
 * marks below until the front disk has no openers, hence no bio that could be
 * looking. The first cache line is all that a block device needs.
 */
struct ubd_slot {
	struct block_device *bdev;	/* NULL for a regular file */
	u64 base;			/* window start in the backing, sectors */
	u64 nr_sectors;			/* window length */
	unsigned int flags;		/* UBD_SL_* */
	unsigned int block_mask;	/* logical block in sectors, minus 1 */
	/*
	 * Sticky: set by the first write, before it is issued, and never
	 * cleared while the slot lives. Untracked writes tell us when they
	 * begin and not when they end, so a mark cleared at a flush would
	 * lose the write in flight; and a device closed and opened again
	 * still owes the flush of what was written before.
	 */
	bool dirty;
	bool touch;			/* written since its times were set */
	unsigned int dma_mask;		/* memory alignment, bytes minus 1 */
	struct file *file;		/* ours alone, not the caller's */
	const struct cred *cred;	/* of who registered it */
	/* Only for files: */
	unsigned long touched;		/* jiffies when its times were set */
	unsigned long failed[2];	/* jiffies when an attempt did, by write */
} ____cacheline_aligned_in_smp;

/* ---- tracked mode (track.c) ---- */

/* Per CPU: tracked bios begun minus ended here, in either epoch. */
struct ubd_epochs {
	long nr[2];
};

/* ---- programs (prog.c) ---- */

/* A registered ubd_bpf_ops, by name. Freed after a grace period. */
struct ubd_prog {
	struct ubd_bpf_ops __rcu *ops;	/* NULL: ejected or gone */
	struct list_head node;		/* in the registry, ubd_bpf_mutex */
	struct list_head bindings;	/* ubd_bpf_mutex */
	char name[UBD_OPS_NAME_LEN];
	u32 flags;			/* of the ops registered last */
	raw_spinlock_t bad_lock;	/* protects the fields below; in map()'s section */
	u64 bad_total;
	unsigned long bad_since;	/* jiffies; start of the current second */
	unsigned int bad_recent;	/* bad verdicts since then */
	bool ejected;
	char reason[UBD_REASON_LEN];
	struct rcu_head rcu;
};

/* A program on a device, with this device's parameter. */
struct ubd_binding {
	struct ubd_prog *prog;
	u64 cookie;
	struct ubd_device *ub;
	struct list_head node;		/* in prog->bindings, ubd_bpf_mutex */
	struct rcu_head rcu;
};

/* ---- bios on their way to files (fio.c) ---- */

/* Per CPU and device: a few free ones, so that most need no allocation. */
struct ubd_fio_cache {
	struct ubd_fio *free;
	unsigned int nr;
};

/* ---- kernel threads that may block in a file system (worker.c) ---- */

#define UBD_WAITERS	3

struct ubd_work {
	union {
		struct llist_node quick;
		struct list_head node;
	};
	void (*fn)(struct ubd_work *work);
};

enum ubd_work_kind {
	UBD_READ,		/* may wait for a disk */
	UBD_WRITE,		/* may wait for a frozen file system */
};

struct ubd_worker {
	struct llist_head quick;
	struct task_struct *issuer;	/* for those */
	spinlock_t lock;		/* protects the next three; irq context */
	struct list_head reads;
	struct list_head writes;
	unsigned int writing;		/* threads at the latter */
	wait_queue_head_t wait;
	struct task_struct *waiter[UBD_WAITERS];
};

/* ---- the device ---- */

/* ubd_device.state, bits */
#define UBD_ST_OPEN	0	/* /dev/ubdcN is open */
#define UBD_ST_DELETED	1	/* DEL has begun */
#define UBD_ST_FRONT	2	/* a front disk exists, perhaps only its openers */
#define UBD_ST_SHUT	3	/* TRY_STOP: the front is not opened any more */

struct ubd_device {
	/* Read by every bio. */
	struct ubd_binding __rcu *bind;	/* NULL also while it is parked */
	struct ubd_stats __percpu *stats;
	struct block_device *hidden_bdev;
	unsigned int nr_slots;		/* highest used slot + 1 */
	unsigned int block_mask;	/* front's logical block in sectors, -1 */
	int id;
	bool fail_declined;		/* no daemon will answer */
	bool daemon_flush;		/* server has a volatile cache */
	bool daemon_dirty;		/* sticky: a write was declined */
	bool fencing;			/* a fence waits: tell it of ends */
	int epoch;			/* 0 or 1: for tracked bios that begin */
	struct ubd_epochs __percpu *epochs;
	struct ubd_slot slots[UBD_MAX_SLOTS];

	struct bio_set split_bs;	/* front halves of split bios */
	struct bio_set flush_bs;	/* flushes we send ourselves */
	struct bio_set track_bs;	/* clones of tracked bios */
	struct bio_set forward_bs;	/* clones of merged, forwarded requests */
	mempool_t flush_pool;		/* struct ubd_flush */
	mempool_t fio_pool;		/* struct ubd_fio */
	mempool_t forward_fio_pool;	/* those that never wait for a server */
	struct ubd_fio_cache __percpu *fio_cache;
	struct workqueue_struct *wq;	/* submits what may wait for a tag */
	/* Ends requests, hence never waits for a tag: others wait for its. */
	struct workqueue_struct *end_wq;
	struct mutex fence_mutex;	/* one fence at a time */
	wait_queue_head_t fence_wait;
	struct ubd_worker worker;

	struct ubd_binding __rcu *bound;	/* the program; ubd_bpf_mutex */
	bool bind_parked;		/* not asked, for want of a server; same */

	/*
	 * Protects info, params, started/stopping/recovering transitions and
	 * the nr_ready counts. Never held while waiting for I/O or a server.
	 */
	struct mutex mutex;
	struct mutex stop_mutex;	/* one STOP at a time */
	/*
	 * Protects the cold side of the slot table. Taken inside the front's
	 * open_mutex at last close, so no file is opened or released under it.
	 */
	struct mutex slot_mutex;

	struct ublksrv_ctrl_dev_info info;
	struct ubd_params params;
	unsigned long state;		/* UBD_ST_* */
	bool aborting;			/* this server gets -ENODEV from now on */
	bool stopping;			/* STOP is under way; ub->mutex */
	bool draining;			/* STOP or QUIESCE waits for tags */
	bool quiesced;			/* the hidden queue; ub->mutex */
	bool recovering;		/* FETCH although started; ub->mutex */
	bool stop_mapped;		/* UBD_POLICY_STOP_MAPPED; ub->mutex */
	struct gendisk *front;		/* set while started; ub->mutex */
	struct block_device *front_bdev;	/* for iostat of declined bios */
	struct gendisk *hidden;		/* lives as long as the front's struct */
	struct blk_mq_tag_set tag_set;
	struct ubd_queue **queues;
	unsigned int nr_queues_ready;
	struct completion ready;	/* all tags were FETCHed */
	struct task_struct *server;	/* opener of the char device */
	struct mm_struct *server_mm;	/* compared, never dereferenced */
	wait_queue_head_t wait;		/* io states, UBD_ST_OPEN */
	struct work_struct scan_work;	/* partition scan after START */
	struct cdev cdev;
	struct device cdev_dev;
	struct rcu_head rcu;
};

/* main.c */
extern struct class *ubd_class;
extern dev_t ubd_chr_devt;
extern atomic_t ubd_nr_devices;
extern wait_queue_head_t ubd_exit_wait;

/* front.c */
extern const struct block_device_operations ubd_front_fops;
void ubd_front_limits(struct ubd_device *ub, struct queue_limits *lim,
		      struct queue_limits *hidden);
void ubd_decline_rest(struct ubd_device *ub, struct bio *bio);
bool ubd_bdev_can(struct block_device *bdev, int idx);

/* slot.c */
int ubd_slot_register(struct ubd_device *ub, struct ubd_slot_reg *reg);
int ubd_slot_unregister(struct ubd_device *ub, u32 nr);
int ubd_slot_resize(struct ubd_device *ub, struct ubd_slot_resize *resize);
int ubd_slot_list(struct ubd_device *ub, struct ubd_slot_list *list);
void ubd_slots_stack(struct ubd_device *ub, struct queue_limits *lim);
void ubd_slots_release(struct ubd_device *ub, bool all, bool sync);
bool ubd_slots_end_front(struct ubd_device *ub);

/* file.c */
void ubd_file_limits_set(struct queue_limits *lim, unsigned int block,
			 unsigned int dma_mask);
int ubd_file_limits(struct file *file, struct queue_limits *lim);
void ubd_file_submit(struct ubd_device *ub, struct ubd_slot *slot,
		     unsigned int flags, struct bio *bio, u64 sector,
		     int epoch);
bool ubd_file_touch(struct file *file);

/* fio.c */
int ubd_fio_init(void);
void ubd_fio_exit(void);
int ubd_fio_init_device(struct ubd_device *ub);
void ubd_fio_exit_device(struct ubd_device *ub);

/* worker.c */
int ubd_worker_start(struct ubd_device *ub);
void ubd_worker_stop(struct ubd_device *ub);
void ubd_worker_init(struct ubd_worker *worker);
void ubd_worker_quick(struct ubd_worker *worker, struct ubd_work *work);
void ubd_worker_queue(struct ubd_worker *worker, struct ubd_work *work,
		      enum ubd_work_kind kind);

/* flush.c */
bool ubd_flush_bio(struct ubd_device *ub, struct bio *bio);
int ubd_flush_init(void);
void ubd_flush_exit(void);
int ubd_flush_init_device(struct ubd_device *ub);

/* track.c */
int ubd_fence(struct ubd_device *ub);
int ubd_track_init_device(struct ubd_device *ub);
void ubd_track_exit_device(struct ubd_device *ub);

/* bpf.c */
int ubd_bpf_init(void);

/* prog.c */
int ubd_prog_reg(void *kdata, struct bpf_link *link);
void ubd_prog_unreg(void *kdata, struct bpf_link *link);
int ubd_prog_update(void *kdata, void *old_kdata, struct bpf_link *link);
int ubd_bind(struct ubd_device *ub, const char *name, u64 cookie);
int ubd_unbind(struct ubd_device *ub);
void ubd_bind_park(struct ubd_device *ub, bool park);
int ubd_prog_list(struct ubd_prog_list __user *arg);
int ubd_prog_test_run(struct ubd_test_run *run);
void ubd_bad_verdict(struct ubd_prog *prog, struct ubd_bpf_ops *ops,
		     const struct ubd_bpf_io *io, int verdict, int bad);

/* queue.c */
extern const struct block_device_operations ubd_hidden_fops;

/* recover.c */
void ubd_server_lost(struct ubd_device *ub);
void ubd_unquiesce(struct ubd_device *ub);
int ubd_start_recovery(struct ubd_device *ub);
int ubd_end_recovery(struct ubd_device *ub, int pid);
int ubd_quiesce(struct ubd_device *ub, u64 timeout_ms);
int ubd_set_policy(struct ubd_device *ub, u32 flags);

/* access.c */
extern const struct device_type ubd_chr_type;
bool ubd_is_unprivileged(struct ubd_device *ub);
int ubd_check_flags(u64 *flags);
int ubd_check_access(struct ubd_device *ub, const void __user *path,
		     unsigned int len, int mask);
int ubd_check_open(struct ubd_device *ub);

/* control.c */
extern const struct file_operations ubd_ctl_fops;

/* ioctl.c */
long ubd_ctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* lifecycle.c */
struct ubd_device *ubd_get_device(int id);
void ubd_put_device(struct ubd_device *ub);
int ubd_add(struct ublksrv_ctrl_dev_info *info);
int ubd_delete(struct ubd_device *ub, bool wait);
void ubd_delete_all(void);

/* disks.c */
int ubd_start(struct ubd_device *ub, int pid);
int ubd_stop(struct ubd_device *ub);
int ubd_try_stop(struct ubd_device *ub);
int ubd_update_size(struct ubd_device *ub, u64 sectors);
bool ubd_is_served(struct ubd_device *ub);
void ubd_front_gone(struct ubd_device *ub);
void ubd_scan_partitions(struct work_struct *work);

/* stats.c */
extern const struct attribute_group *ubd_groups[];

#define ubd_count(ub, field)	this_cpu_inc((ub)->stats->field)

/* Index of a block layer op in the counters, or -1: not served. */
static inline int ubd_op_index(enum req_op op)
{
	switch (op) {
	case REQ_OP_READ:
		return UBD_IDX_READ;
	case REQ_OP_WRITE:
		return UBD_IDX_WRITE;
	case REQ_OP_FLUSH:
		return UBD_IDX_FLUSH;
	case REQ_OP_DISCARD:
		return UBD_IDX_DISCARD;
	case REQ_OP_WRITE_ZEROES:
		return UBD_IDX_WRITE_ZEROES;
	default:
		return -1;
	}
}

/* What a program is shown of bi_opf. */
#define UBD_OPF_SHOWN	(REQ_META | REQ_FUA | REQ_NOUNMAP | REQ_SWAP)

/* Only the values of UBLK_IO_F_*: enum req_flag_bits is no ABI. */
static inline u32 ubd_io_flags(blk_opf_t opf)
{
	u32 flags = 0;

	if (opf & REQ_META)
		flags |= UBD_IO_META;
	if (opf & REQ_FUA)
		flags |= UBD_IO_FUA;
	if (opf & REQ_NOUNMAP)
		flags |= UBD_IO_NOUNMAP;
	if (opf & REQ_SWAP)
		flags |= UBD_IO_SWAP;
	return flags;
}

#endif /* UBD_H */
