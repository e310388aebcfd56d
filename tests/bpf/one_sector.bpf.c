// SPDX-License-Identifier: GPL-2.0
/* One block at a time: as many splits as there can be. */
#include "prog.h"

const volatile __u32 block = 1;	/* sectors */

SEC("struct_ops/map")
int BPF_PROG(one_sector_map, struct ubd_bpf_io *io)
{
	if (io->map_sectors > block)
		io->map_sectors = block;
	return identity(io);
}

UBD_TEST_PROGRAM(one_sector, one_sector_map, UBD_OPS_WANT_DISCARD);
