// SPDX-License-Identifier: GPL-2.0
/* Rejected: a helper that a mapping has no need of. */
#include "../prog.h"

SEC("struct_ops/map")
int BPF_PROG(bad_helper_map, struct ubd_bpf_io *io)
{
	__u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), io);
	io->slot = 0;
	io->map_sector = word;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(bad_helper, bad_helper_map, 0);
