// SPDX-License-Identifier: GPL-2.0
/*
 * Several slots as a concatenation or, with a chunk, as a stripe; declines a
 * random share. Counts in other ways than the programs that ship.
 */
#include "prog.h"

const volatile __u32 percent = 50;
const volatile __u32 nr = 1;
const volatile __u64 end[8] = {};	/* concatenation: where each slot ends */
const volatile __u32 chunk = 0;		/* stripe: sectors */

static __always_inline void up_to(struct ubd_bpf_io *io, __u64 left)
{
	if (io->map_sectors > left)
		io->map_sectors = left;
}

SEC("struct_ops/map")
int BPF_PROG(members_random_map, struct ubd_bpf_io *io)
{
	__u64 sector = io->sector;
	__u32 i;

	if (bpf_get_prandom_u32() % 100 < percent || !nr)
		return UBD_MAP_DECLINE;
	if (chunk) {
		io->slot = sector / chunk % nr;
		io->map_sector = sector / ((__u64)chunk * nr) * chunk + sector % chunk;
		up_to(io, chunk - sector % chunk);
		return UBD_MAP_BACKING;
	}
	for (i = 0; i < 8 && i < nr; i++) {
		if (sector >= end[i])
			continue;
		io->slot = i;
		io->map_sector = sector - (i ? end[(i - 1) & 7] : 0);
		up_to(io, end[i] - sector);
		return UBD_MAP_BACKING;
	}
	return UBD_MAP_DECLINE;
}

UBD_TEST_PROGRAM(members_random, members_random_map, UBD_OPS_WANT_DISCARD);
