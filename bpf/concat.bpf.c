// SPDX-License-Identifier: GPL-2.0
/*
 * concat: slots 0 … nr-1, one behind the other.
 *
 *	device   |----- slot_len[0] -----|-- slot_len[1] --|- … -|
 *	slot      0                       1                  nr-1
 *
 * An io that crosses a seam is answered up to the seam; the driver asks again
 * for the rest. What lies behind the last slot is declined.
 */
#include "ubd_bpf.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u64 slot_len[UBD_MAX_SLOTS] = {};	/* sectors */
const volatile __u32 nr = 0;				/* lengths in use */

SEC("struct_ops/map")
int BPF_PROG(concat_map, struct ubd_bpf_io *io)
{
	__u64 sector = io->sector;	/* counted from the start of slot i */
	__u32 i;

	for (i = 0; i < UBD_MAX_SLOTS && i < nr && i < io->nr_slots; i++) {
		__u64 len = slot_len[i];

		if (sector < len) {
			io->slot = i;
			io->map_sector = sector;
			if (io->nr_sectors > len - sector)
				io->map_sectors = len - sector;
			return UBD_MAP_BACKING;
		}
		sector -= len;
	}
	return UBD_MAP_DECLINE;
}

SEC(".struct_ops.link")
struct ubd_bpf_ops concat = {
	.map = (void *)concat_map,
	.flags = UBD_OPS_WANT_DISCARD,
	.name = "concat",
};
