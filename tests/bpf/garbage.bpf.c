// SPDX-License-Identifier: GPL-2.0
/* Random answers, untracked. */
#include "garbage.h"

SEC("struct_ops/map")
int BPF_PROG(garbage_map, struct ubd_bpf_io *io)
{
	return garbage_answer(io);
}

UBD_TEST_PROGRAM(garbage, garbage_map, UBD_OPS_WANT_DISCARD);
