// SPDX-License-Identifier: GPL-2.0
/* Slot 0, shifted by the cookie (in sectors) of the device. */
#include "prog.h"

SEC("struct_ops/map")
int BPF_PROG(cookie_offset_map, struct ubd_bpf_io *io)
{
	io->slot = 0;
	io->map_sector = io->sector + io->cookie;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(cookie_offset, cookie_offset_map, UBD_OPS_WANT_DISCARD);
