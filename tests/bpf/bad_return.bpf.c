// SPDX-License-Identifier: GPL-2.0
/* A verdict that does not exist. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_return_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	return 77;
}

UBD_TEST_PROGRAM(bad_return, bad_return_map, 0);
