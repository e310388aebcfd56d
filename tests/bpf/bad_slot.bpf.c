// SPDX-License-Identifier: GPL-2.0
/* A slot number that cannot exist. */
#include "below.h"

SEC("struct_ops/map")
int BPF_PROG(bad_slot_map, struct ubd_bpf_io *io)
{
	if (io->sector >= below)
		return identity(io);

	io->slot = io->nr_slots;
	io->map_sector = io->sector;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(bad_slot, bad_slot_map, 0);
