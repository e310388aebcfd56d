// SPDX-License-Identifier: GPL-2.0
/*
 * A shipped program as a native one that answers questions over a pipe: what
 * tests/maps.rs compares with its models. Compiled with one of -DLINEAR, -DCONCAT
 * and -DSTRIPE.
 *
 * in:  the settings, sector, nr_sectors, nr_slots
 * out: verdict, slot, map_sector, map_sectors
 */
#include <stdio.h>

#include "ubd_bpf.h"

#define SEC(name)
#define BPF_PROG(name, args...) name(args)
/* Settings are constant to the program, not to its loader. */
#define const

#if defined(LINEAR)
#include "linear.bpf.c"
#define MAP linear_map
#elif defined(CONCAT)
#include "concat.bpf.c"
#define MAP concat_map
#elif defined(STRIPE)
#include "stripe.bpf.c"
#define MAP stripe_map
#endif

static __u64 cookie;

static int get(__u64 *number)
{
	unsigned long long n;

	if (scanf("%llu", &n) != 1)
		return 0;
	*number = n;
	return 1;
}

static int settings(void)
{
	__u64 number;

#if defined(LINEAR)
	if (!get(&number))
		return 0;
	linear_offset = number;
#elif defined(CONCAT)
	if (!get(&number))
		return 0;
	nr = number;
	for (int i = 0; i < UBD_MAX_SLOTS; i++) {
		if (!get(&number))
			return 0;
		slot_len[i] = number;
	}
#elif defined(STRIPE)
	if (!get(&cookie))
		return 0;
	(void)number;
#endif
	return 1;
}

int main(void)
{
	__u64 sector, nr_sectors, nr_slots;

	while (settings() && get(&sector) && get(&nr_sectors) && get(&nr_slots)) {
		struct ubd_bpf_io io = {
			.sector = sector,
			.cookie = cookie,
			.nr_sectors = nr_sectors,
			.map_sectors = nr_sectors,
			.nr_slots = nr_slots,
		};
		int verdict = MAP(&io);

		printf("%d %u %llu %u\n", verdict, io.slot,
		       (unsigned long long)io.map_sector, io.map_sectors);
		fflush(stdout);
	}
	return 0;
}
