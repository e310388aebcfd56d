// SPDX-License-Identifier: GPL-2.0
/*
 * cluster_fixed: cluster, for maps that only gain entries.
 *
 * Not tracked, which makes it cheaper. What an entry once said it must say for
 * good, for nobody can wait for the I/O that it has sent somewhere: a cluster
 * may get a place or become writable, and never leaves a place again.
 */
#include "ubd_cluster.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u32 cluster_shift = 7;	/* log2 of the sectors of a cluster */

UBD_CLUSTER_MAP(clusters);

SEC("struct_ops/map")
int BPF_PROG(fixed_map, struct ubd_bpf_io *io)
{
	return ubd_cluster_map(io, &clusters, cluster_shift);
}

SEC(".struct_ops.link")
struct ubd_bpf_ops cluster_fixed = {
	.map = (void *)fixed_map,
	.name = "cluster_fixed",
};
