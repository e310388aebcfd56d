/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Answers of random numbers. So many of a second are anything at all, fewer than
 * would have the program ejected; the rest are allowed, though no two of them
 * need agree where a sector is. They come one by one: what a second allows, given
 * late in one and early in the next, would be twice as many for the driver.
 */
#ifndef UBD_TEST_GARBAGE_H
#define UBD_TEST_GARBAGE_H

#include "prog.h"

#define SECOND	1000000000ULL

const volatile __u32 window = 1;	/* sectors of every slot */
const volatile __u32 read_only = ~0U;	/* a slot that must not be written */
const volatile __u32 per_second = 32;	/* answers of any kind */

__u64 last;	/* when there was one */

static __always_inline __u64 random64(void)
{
	return (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
}

/* Near @sane, far from everything, or in between. */
static __always_inline __u64 wild(__u64 sane)
{
	switch (bpf_get_prandom_u32() % 8) {
	case 0:
		return 0;
	case 1:
		return ~0ULL - bpf_get_prandom_u32() % 256;
	case 2:
		return sane;
	case 3:
		return sane + bpf_get_prandom_u32() % 16 - 8;
	case 4:
		return (__u64)window + bpf_get_prandom_u32() % 64 - 32;
	case 5:
		return 1ULL << bpf_get_prandom_u32() % 64;
	case 6:
		return random64() >> bpf_get_prandom_u32() % 64;
	default:
		return random64();
	}
}

static __always_inline int any_answer(struct ubd_bpf_io *io)
{
	io->slot = wild(io->nr_slots);
	io->map_sector = wild(io->sector);
	io->map_sectors = wild(io->nr_sectors);
	if (bpf_get_prandom_u32() % 4)
		return UBD_MAP_BACKING;
	return wild(UBD_MAP_ZERO);
}

static __always_inline int some_answer(struct ubd_bpf_io *io)
{
	__u32 nr = io->nr_sectors, slots = io->nr_slots, slot, room;

	switch (bpf_get_prandom_u32() % 32) {
	case 0:
		return UBD_MAP_DECLINE;
	case 1:
		return io->op == UBD_OP_WRITE ? UBD_MAP_DECLINE : UBD_MAP_ZERO;
	case 2:
		return -EIO;
	}
	if (!slots || !nr || nr > window)
		return UBD_MAP_DECLINE;
	nr = bpf_get_prandom_u32() % 4 ? nr : 1 + bpf_get_prandom_u32() % nr;
	slot = bpf_get_prandom_u32() % slots;
	if (slot == read_only && io->op != UBD_OP_READ)
		return UBD_MAP_DECLINE;
	room = window - nr + 1;
	io->slot = slot;
	/* The ends of the window more often than chance has it. */
	switch (bpf_get_prandom_u32() % 8) {
	case 0:
		io->map_sector = 0;
		break;
	case 1:
		io->map_sector = room - 1;
		break;
	default:
		io->map_sector = bpf_get_prandom_u32() % room;
	}
	io->map_sectors = nr;
	return UBD_MAP_BACKING;
}

static __always_inline int garbage_answer(struct ubd_bpf_io *io)
{
	__u64 before = last, now = bpf_ktime_get_ns();

	if (now - before < SECOND / per_second ||
	    !__sync_bool_compare_and_swap(&last, before, now))
		return some_answer(io);
	return any_answer(io);
}

#endif /* UBD_TEST_GARBAGE_H */
