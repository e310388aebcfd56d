/* SPDX-License-Identifier: GPL-2.0 */
/* What file.c, inline.c and fio.c share. */
#ifndef UBD_FILE_H
#define UBD_FILE_H

#include "ubd.h"

/* One bio on its way to a file. */
struct ubd_fio {
	union {
		struct ubd_work work;		/* to issue it, on the worker */
		struct work_struct decline;	/* may wait for a tag: ub->wq */
		struct ubd_fio *next;		/* in struct ubd_fio_cache */
	};
	struct kiocb iocb;
	atomic_t refs;		/* the issuing call's, and the completion's */
	long ret;		/* the file system's answer */
	struct ubd_device *ub;
	struct ubd_slot *slot;
	struct bio *bio;
	loff_t pos;		/* where the rest of the bio goes */
	unsigned long start;	/* for iostat */
	unsigned int sectors;	/* of the whole bio */
	s8 epoch;		/* of the fence, UBD_UNTRACKED or _FORWARDED */
	bool nowait;		/* an attempt: the worker has the last word */
	bool acct;
};

/* file.c */
ssize_t ubd_fio_rw(struct ubd_fio *fio, bool nowait);
void ubd_fio_returned(struct ubd_fio *fio, ssize_t ret);

/* fio.c */
struct ubd_fio *ubd_fio_get(struct ubd_device *ub, gfp_t gfp);
void ubd_fio_free(struct ubd_device *ub, struct ubd_fio *fio);

/* inline.c */
bool ubd_may_inline(struct ubd_device *ub, struct bio *bio);
bool ubd_may_inline_forward(struct bio *bio);
void ubd_fio_inline(struct ubd_fio *fio);

#endif /* UBD_FILE_H */
