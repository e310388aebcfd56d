// SPDX-License-Identifier: GPL-2.0
/* Rejected: the reserved field is not part of the answer. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(write_reserved_map, struct ubd_bpf_io *io)
{
	io->reserved = 1;
	return identity(io);
}

UBD_TEST_PROGRAM(write_reserved, write_reserved_map, 0);
