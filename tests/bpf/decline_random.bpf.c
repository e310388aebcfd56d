// SPDX-License-Identifier: GPL-2.0
/* Declines a random share, so that both paths serve the same blocks. */
#include "prog.h"

const volatile __u32 percent = 50;

SEC("struct_ops/map")
int BPF_PROG(decline_random_map, struct ubd_bpf_io *io)
{
	if (bpf_get_prandom_u32() % 100 < percent)
		return UBD_MAP_DECLINE;
	return identity(io);
}

UBD_TEST_PROGRAM(decline_random, decline_random_map, UBD_OPS_WANT_DISCARD);
