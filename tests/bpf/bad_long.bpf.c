// SPDX-License-Identifier: GPL-2.0
/* A verdict that holds for more than was asked. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_long_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->map_sectors = io->nr_sectors + 1;
	return identity(io);
}

UBD_TEST_PROGRAM(bad_long, bad_long_map, 0);
