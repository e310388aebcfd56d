/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * A map of clusters: where each piece of a device lives, one u64 for each,
 * in an array that a daemon maps into its memory and changes while I/O runs.
 *
 *	  63                             24 23        10 9      4 3  2  1  0
 *	+---------------------------------+------------+--------+--+--+--+--+
 *	|         physical cluster        | generation |  slot  |LK|ZR|WR|VA|
 *	+---------------------------------+------------+--------+--+--+--+--+
 *
 *	VA valid     without it everything is declined; 0 is such an entry
 *	WR writable  without it writes are declined
 *	ZR zero      reads are zeroes, writes are declined; no place
 *	LK locked    everything is declined: the daemon is at work on it
 *
 * The physical cluster counts clusters from the start of the slot's window. The
 * generation changes whenever an entry does, so that a daemon can tell; programs
 * ignore it. One word, because a wider value can be read half old, half new.
 *
 * See docs/cluster-map.md for how a daemon must change an entry.
 */
#ifndef UBD_CLUSTER_H
#define UBD_CLUSTER_H

#include "ubd_bpf.h"

#define UBD_CLUSTER_VALID	(1U << 0)
#define UBD_CLUSTER_WRITABLE	(1U << 1)
#define UBD_CLUSTER_ZERO	(1U << 2)
#define UBD_CLUSTER_LOCKED	(1U << 3)
#define UBD_CLUSTER_SLOT_SHIFT	4
#define UBD_CLUSTER_SLOT_BITS	6
#define UBD_CLUSTER_GEN_SHIFT	10
#define UBD_CLUSTER_GEN_BITS	14
#define UBD_CLUSTER_PLACE_SHIFT	24
#define UBD_CLUSTER_PLACE_BITS	40

/* A cluster is 2^shift sectors: from 512 bytes to 1 GiB. */
#define UBD_CLUSTER_MAX_SHIFT	21

#ifdef __bpf__

/*
 * Declares the map: an array of one u64 for each cluster. Its size is set when
 * it is loaded (ClusterMap in Rust, bpf_map__set_max_entries() elsewhere).
 */
#define UBD_CLUSTER_MAP(name)					\
	struct {						\
		__uint(type, BPF_MAP_TYPE_ARRAY);		\
		__uint(map_flags, BPF_F_MMAPABLE);		\
		__uint(max_entries, 1);				\
		__type(key, __u32);				\
		__type(value, __u64);				\
	} name SEC(".maps")

/*
 * Answers io from the map: for its first cluster, and if it goes on behind
 * that one, the driver asks again for the rest. Writes that are not plain
 * writes (discards, write-zeroes) are declined.
 */
static __always_inline int ubd_cluster_map(struct ubd_bpf_io *io, void *map,
					   __u32 shift)
{
	__u64 sector = io->sector;
	__u64 number = sector >> shift;
	__u32 size = 1U << (shift & 31);
	__u32 within = sector & (size - 1);
	__u32 key = number;
	__u64 *at, entry;

	/* Behind the end of any map: must not wrap around to its start. */
	if (number >> 32)
		return UBD_MAP_DECLINE;
	at = bpf_map_lookup_elem(map, &key);
	if (!at)
		return UBD_MAP_DECLINE;
	if (io->nr_sectors > size - within)
		io->map_sectors = size - within;

	/* Once: the daemon may change it at any time. */
	entry = *(volatile __u64 *)at;
	if ((entry & (UBD_CLUSTER_VALID | UBD_CLUSTER_ZERO |
		      UBD_CLUSTER_LOCKED)) != UBD_CLUSTER_VALID) {
		if ((entry & (UBD_CLUSTER_VALID | UBD_CLUSTER_LOCKED)) ==
		    UBD_CLUSTER_VALID && io->op == UBD_OP_READ)
			return UBD_MAP_ZERO;
		return UBD_MAP_DECLINE;
	}
	if (io->op != UBD_OP_READ &&
	    (io->op != UBD_OP_WRITE || !(entry & UBD_CLUSTER_WRITABLE)))
		return UBD_MAP_DECLINE;

	io->slot = (entry >> UBD_CLUSTER_SLOT_SHIFT) &
		   ((1U << UBD_CLUSTER_SLOT_BITS) - 1);
	io->map_sector = (entry >> UBD_CLUSTER_PLACE_SHIFT << shift) | within;
	return UBD_MAP_BACKING;
}

#endif /* __bpf__ */

#endif /* UBD_CLUSTER_H */
