// SPDX-License-Identifier: GPL-2.0
/* Rejected: the question is read-only. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(write_op_map, struct ubd_bpf_io *io)
{
	io->op = UBD_OP_WRITE;
	return identity(io);
}

UBD_TEST_PROGRAM(write_op, write_op_map, 0);
