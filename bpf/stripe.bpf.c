// SPDX-License-Identifier: GPL-2.0
/*
 * stripe: chunks dealt out to slots 0 … nr-1 in turn.
 *
 *	device   | chunk 0 | chunk 1 | … | chunk nr-1 | chunk nr | …
 *	slot          0         1            nr-1           0
 *	row           0         0             0             1
 *
 * The layout comes with the binding, so that one program serves all devices:
 * the cookie is nr | log2(sectors of a chunk) << 8. An io that crosses a chunk
 * is answered up to its end; the driver asks again for the rest.
 */
#include "ubd_bpf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("struct_ops/map")
int BPF_PROG(stripe_map, struct ubd_bpf_io *io)
{
	__u32 nr = io->cookie & 0xff;
	__u32 shift = io->cookie >> 8 & 0x1f;
	__u64 chunk = io->sector >> shift;
	__u32 in = io->sector & ((1U << shift) - 1);
	__u32 left = (1U << shift) - in;
	__u64 row;

	/* No layout, or bound before its slots were registered. */
	if (!nr || nr > io->nr_slots)
		return UBD_MAP_DECLINE;

	/* Not with `%`: that would be a second division. */
	row = chunk / nr;
	io->slot = chunk - row * nr;
	io->map_sector = (row << shift) + in;
	if (io->nr_sectors > left)
		io->map_sectors = left;
	return UBD_MAP_BACKING;
}

SEC(".struct_ops.link")
struct ubd_bpf_ops stripe = {
	.map = (void *)stripe_map,
	.flags = UBD_OPS_WANT_DISCARD,
	.name = "stripe",
};
