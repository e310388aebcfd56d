// SPDX-License-Identifier: GPL-2.0
/* The two halves of slot 0 change places: a geometry that is not linear. */
#include "prog.h"

const volatile __u64 half = 2048;	/* sectors; the device has twice that */

SEC("struct_ops/map")
int BPF_PROG(swap2_map, struct ubd_bpf_io *io)
{
	__u64 left;

	io->slot = 0;
	if (io->sector < half) {
		left = half - io->sector;
		io->map_sector = io->sector + half;
		if (io->map_sectors > left)
			io->map_sectors = left;
	} else {
		io->map_sector = io->sector - half;
	}
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(swap2, swap2_map, UBD_OPS_WANT_DISCARD);
