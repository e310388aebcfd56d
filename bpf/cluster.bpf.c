// SPDX-License-Identifier: GPL-2.0
/*
 * cluster: the device is what the map `clusters` says, cluster by cluster.
 *
 * Tracked, so that a daemon may move clusters behind a fence. Discards and
 * write-zeroes go to the daemon, for they may change the map.
 */
#include "ubd_cluster.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 cluster_shift = 7;	/* log2 of the sectors of a cluster */

UBD_CLUSTER_MAP(clusters);

SEC("struct_ops/map")
int BPF_PROG(cluster_map, struct ubd_bpf_io *io)
{
	return ubd_cluster_map(io, &clusters, cluster_shift);
}

SEC(".struct_ops.link")
struct ubd_bpf_ops cluster = {
	.map = (void *)cluster_map,
	.flags = UBD_OPS_TRACKED,
	.name = "cluster",
};
