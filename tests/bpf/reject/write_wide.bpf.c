// SPDX-License-Identifier: GPL-2.0
/* Rejected: a store that covers an answer field and its neighbour. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(write_wide_map, struct ubd_bpf_io *io)
{
	*(volatile __u64 *)&io->map_sectors = 1;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(write_wide, write_wide_map, 0);
