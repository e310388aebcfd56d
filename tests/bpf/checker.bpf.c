// SPDX-License-Identifier: GPL-2.0
/* Maps every other chunk and declines the rest: seams inside most large ios. */
#include "prog.h"

const volatile __u32 chunk = 64;	/* sectors */

SEC("struct_ops/map")
int BPF_PROG(checker_map, struct ubd_bpf_io *io)
{
	__u32 left = chunk - io->sector % chunk;

	if (io->map_sectors > left)
		io->map_sectors = left;
	if (io->sector / chunk % 2)
		return UBD_MAP_DECLINE;
	return identity(io);
}

UBD_TEST_PROGRAM(checker, checker_map, UBD_OPS_WANT_DISCARD);
