// SPDX-License-Identifier: GPL-2.0
/* ZERO for writes, without the permission to drop data. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(zero_write_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	return UBD_MAP_ZERO;
}

UBD_TEST_PROGRAM(zero_write, zero_write_map, 0);
