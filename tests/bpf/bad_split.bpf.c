// SPDX-License-Identifier: GPL-2.0
/* Splits inside a logical block, where that is larger than 512 bytes. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_split_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->map_sectors = 1;
	return identity(io);
}

UBD_TEST_PROGRAM(bad_split, bad_split_map, 0);
