// SPDX-License-Identifier: GPL-2.0
/*
 * One variable of every kind that --set may meet. The answer tells what they
 * were at load: map_sector is their sum.
 */
#include "prog.h"

#define SETTING const volatile __attribute__((used))

enum colour { RED = 1, GREEN = 2 };

SETTING _Bool a_bool = 0;
SETTING signed char an_s8 = 0;
SETTING __u16 a_u16 = 0;
SETTING __s32 grid[2][3] = {};
SETTING __u64 a_u64 = 0;
SETTING enum colour a_colour = RED;
SETTING struct { __u32 x; } a_struct = {};	/* cannot be set */
SETTING __u32 elsewhere SEC(".rodata.more") = 0;
__u64 not_constant = 0;				/* cannot be set */

SEC("struct_ops/map")
int BPF_PROG(settings_map, struct ubd_bpf_io *io)
{
	__u64 sum = a_bool + an_s8 + a_u16 + a_u64 + a_colour + elsewhere;
	int i;

	for (i = 0; i < 3; i++)
		sum += grid[0][i] + grid[1][i];
	not_constant++;
	io->slot = 0;
	io->map_sector = sum;
	return UBD_MAP_BACKING;
}

UBD_TEST_PROGRAM(settings, settings_map, 0);
