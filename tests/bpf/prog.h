/* SPDX-License-Identifier: GPL-2.0 */
/* What the test programs share. */
#ifndef UBD_TEST_PROG_H
#define UBD_TEST_PROG_H

#include "ubd_bpf.h"

char LICENSE[] SEC("license") = "GPL";

/* Registers MAP under the name of the object's file. */
#define UBD_TEST_PROGRAM(ident, map_fn, ops_flags)	\
	SEC(".struct_ops.link")				\
	struct ubd_bpf_ops ident = {			\
		.map = (void *)map_fn,			\
		.flags = ops_flags,			\
		.name = #ident,				\
	}

/* The honest answer: slot 0 is the device. */
static __always_inline int identity(struct ubd_bpf_io *io)
{
	io->slot = 0;
	io->map_sector = io->sector;
	return UBD_MAP_BACKING;
}

#endif /* UBD_TEST_PROG_H */
