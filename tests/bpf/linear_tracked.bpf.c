// SPDX-License-Identifier: GPL-2.0
/* The identity on slot 0 as `linear` has it, but tracked: what tracking costs. */
#include "prog.h"

SEC("struct_ops/map")
int BPF_PROG(linear_tracked_map, struct ubd_bpf_io *io)
{
	if (!io->nr_slots)
		return UBD_MAP_DECLINE;
	return identity(io);
}

UBD_TEST_PROGRAM(linear_tracked, linear_tracked_map,
		 UBD_OPS_WANT_DISCARD | UBD_OPS_TRACKED);
