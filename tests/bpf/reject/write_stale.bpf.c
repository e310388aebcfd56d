// SPDX-License-Identifier: GPL-2.0
/*
 * Rejected: the io of an earlier call, kept in a map. It was on the stack of whoever
 * submitted that one, and something else is there now.
 */
#include "../prog.h"

struct kept {
	struct ubd_bpf_io __kptr_untrusted *io;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kept);
} kept SEC(".maps");

SEC("struct_ops/map")
int BPF_PROG(write_stale_map, struct ubd_bpf_io *io)
{
	struct ubd_bpf_io *stale;
	struct kept *kept_io;
	__u32 zero = 0;

	kept_io = bpf_map_lookup_elem(&kept, &zero);
	if (!kept_io)
		return UBD_MAP_DECLINE;
	stale = kept_io->io;
	if (stale)
		stale->map_sector = io->sector;
	kept_io->io = io;
	return identity(io);
}

UBD_TEST_PROGRAM(write_stale, write_stale_map, 0);
