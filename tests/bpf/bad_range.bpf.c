// SPDX-License-Identifier: GPL-2.0
/* Past the slot's window; the last sector of all makes the end wrap around. */
#include "below.h"

const volatile __u64 where = 1ULL << 40;	/* sectors */

SEC("struct_ops/map")
int BPF_PROG(bad_range_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->slot = 0;
	io->map_sector = where;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(bad_range, bad_range_map, 0);
