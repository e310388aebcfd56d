// SPDX-License-Identifier: GPL-2.0
/* Rejected: the hook runs where nothing may sleep. */
#include "../prog.h"

SEC("struct_ops.s/map")
int BPF_PROG(sleepable_map, struct ubd_bpf_io *io)
{
	return identity(io);
}

UBD_TEST_PROGRAM(sleepable, sleepable_map, 0);
