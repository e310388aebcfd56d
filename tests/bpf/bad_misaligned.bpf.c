// SPDX-License-Identifier: GPL-2.0
/* Not a multiple of the logical block, where that is larger than 512 bytes. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_misaligned_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->slot = 0;
	io->map_sector = io->sector + 1;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(bad_misaligned, bad_misaligned_map, 0);
