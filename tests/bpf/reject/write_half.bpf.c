// SPDX-License-Identifier: GPL-2.0
/* Rejected: a store to a part of an answer field. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(write_half_map, struct ubd_bpf_io *io)
{
	*(volatile __u8 *)&io->slot = 1;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(write_half, write_half_map, 0);
