// SPDX-License-Identifier: GPL-2.0
/* A verdict that holds for nothing: the driver must not loop. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_zero_len_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->map_sectors = 0;
	return identity(io);
}

UBD_TEST_PROGRAM(bad_zero_len, bad_zero_len_map, 0);
