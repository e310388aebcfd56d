// SPDX-License-Identifier: GPL-2.0
/*
 * linear: the device is slot 0, shifted by linear_offset sectors.
 *
 * With the offset left at 0 it is the identity on the slot's window, which is
 * what `ubd add --bpf-fastpath` uses: --offset and --sizelimit are the window.
 */
#include "ubd_bpf.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u64 linear_offset = 0;	/* sectors */

SEC("struct_ops/map")
int BPF_PROG(linear_map, struct ubd_bpf_io *io)
{
	/* Bound before the slot was registered: that is no mistake. */
	if (!io->nr_slots)
		return UBD_MAP_DECLINE;

	io->slot = 0;
	io->map_sector = io->sector + linear_offset;
	return UBD_MAP_BACKING;
}

SEC(".struct_ops.link")
struct ubd_bpf_ops linear = {
	.map = (void *)linear_map,
	.flags = UBD_OPS_WANT_DISCARD,
	.name = "linear",
};
