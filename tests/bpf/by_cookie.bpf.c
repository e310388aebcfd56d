// SPDX-License-Identifier: GPL-2.0
/*
 * Answers as the cookie says, so that one loaded program can misbehave in every
 * way: the low byte says what to spoil in the honest answer, the rest with what.
 */
#include "prog.h"

enum what {
	HONEST,
	RETURN,			/* this verdict or -errno */
	LENGTH,			/* map_sectors */
	LONGER,			/* map_sectors is this much more than asked */
	SLOT,			/* this many behind the last */
	SECTOR,			/* map_sector */
	SHIFT,			/* map_sector is this far off */
};

SEC("struct_ops/map")
int BPF_PROG(by_cookie_map, struct ubd_bpf_io *io)
{
	__s64 with = (__s64)io->cookie >> 8;

	io->slot = 0;
	io->map_sector = io->sector;
	switch (io->cookie & 0xff) {
	case RETURN:
		return with;
	case LENGTH:
		io->map_sectors = with;
		break;
	case LONGER:
		io->map_sectors = io->nr_sectors + with;
		break;
	case SLOT:
		io->slot = io->nr_slots + with;
		break;
	case SECTOR:
		io->map_sector = with;
		break;
	case SHIFT:
		io->map_sector = io->sector + with;
		break;
	}
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(by_cookie, by_cookie_map, UBD_OPS_WANT_DISCARD);
