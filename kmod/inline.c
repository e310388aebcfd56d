// SPDX-License-Identifier: GPL-2.0
/*
 * May the submitter itself call the file system of a file slot? Kernel loop
 * tried that for everybody and took it back; here every objection raised then
 * is a condition, and the worker serves whoever does not meet them all:
 *
 *	locks of a file system above	nobody claims the front, no journal handle
 *	memory reclaim			no PF_MEMALLOC*, and a noio scope inside
 *	folios locked by the submitter	no page of the front's own page cache
 *	stack				a stated bound must be left; one level
 *	limits of the submitter		no RLIMIT_FSIZE; credentials of the slot
 *	frozen file systems		trylock
 *	bios queued behind us		current->bio_list is set aside
 *	waiting				IOCB_NOWAIT, and a back-off on EAGAIN
 *
 * docs/files.md takes them one by one.
 */
#include <linux/cred.h>
#include <linux/jiffies.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

#include "file.h"

/*
 * Stack that must be left for the file system and the disks below it: half of
 * an x86 stack. ext4 or XFS down to a disk driver need less than 5 KiB.
 */
#define UBD_INLINE_STACK	SZ_8K

/* Kernel threads, and whoever is freeing memory or going away. */
#define UBD_NOT_INLINE	(PF_KTHREAD | PF_WQ_WORKER | PF_EXITING | PF_MEMALLOC | \
			 PF_MEMALLOC_NOIO | PF_MEMALLOC_NOFS)

static unsigned long ubd_stack_left(void)
{
	return (unsigned long)__builtin_frame_address(0) -
	       (unsigned long)task_stack_page(current);
}

/* Buffered I/O on the front: its folios are locked or under writeback. */
static bool ubd_is_page_cache(struct bio *bio)
{
	struct address_space *mapping = bio->bi_bdev->bd_mapping;
	struct bvec_iter pos;
	struct bio_vec bv;

	bio_for_each_bvec(bv, bio, pos)
		if (READ_ONCE(page_folio(bv.bv_page)->mapping) == mapping)
			return true;
	return false;
}

static bool ubd_has_room(struct bio *bio)
{
	return ubd_stack_left() >= UBD_INLINE_STACK &&
	       (bio_op(bio) == REQ_OP_READ ||
		rlimit(RLIMIT_FSIZE) == RLIM_INFINITY);
}

/* Of a bio that is worth a try; see ubd_may_try(). */
bool ubd_may_inline(struct ubd_device *ub, struct bio *bio)
{
	return !(current->flags & UBD_NOT_INLINE) &&
	       !current->journal_info &&
	       !READ_ONCE(ub->front_bdev->bd_holder) &&
	       ubd_has_room(bio) && !ubd_is_page_cache(bio);
}

/*
 * Of a clone, in the server, which has just come from user space: it holds no
 * lock, folio or handle of whoever submitted the bio, and is not freeing memory
 * (PF_MEMALLOC_NOIO only says that it serves those who are).
 */
bool ubd_may_inline_forward(struct bio *bio)
{
	return !current->journal_info && ubd_has_room(bio);
}

/* Issue it here and now. */
void ubd_fio_inline(struct ubd_fio *fio)
{
	struct bio_list *bio_list = current->bio_list;
	const struct cred *cred;
	unsigned int noio;
	ssize_t ret;

	/*
	 * We are below submit_bio(): a bio of the file system would only be
	 * queued behind us, and the file system may wait for it.
	 */
	current->bio_list = NULL;
	noio = memalloc_noio_save();
	cred = override_creds(fio->slot->cred);
	ret = ubd_fio_rw(fio, true);
	revert_creds(cred);
	memalloc_noio_restore(noio);
	current->bio_list = bio_list;
	/* Not before: the end of the upper bio may submit others. */
	ubd_fio_returned(fio, ret);
}
