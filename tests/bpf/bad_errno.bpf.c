// SPDX-License-Identifier: GPL-2.0
/* An error that a disk must not report. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_errno_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	return -EPERM;
}

UBD_TEST_PROGRAM(bad_errno, bad_errno_map, 0);
