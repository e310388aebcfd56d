// SPDX-License-Identifier: GPL-2.0
/* Random answers, tracked. */
#include "garbage.h"

SEC("struct_ops/map")
int BPF_PROG(garbage_tracked_map, struct ubd_bpf_io *io)
{
	return garbage_answer(io);
}

UBD_TEST_PROGRAM(garbage_tracked, garbage_tracked_map,
		 UBD_OPS_WANT_DISCARD | UBD_OPS_TRACKED);
