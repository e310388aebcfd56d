// SPDX-License-Identifier: GPL-2.0
/* Rejected: a store behind the end of the io. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(oob_map, struct ubd_bpf_io *io)
{
	((volatile __u32 *)io)[sizeof(*io) / 4] = 1;
	return identity(io);
}

UBD_TEST_PROGRAM(oob, oob_map, 0);
