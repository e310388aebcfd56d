// SPDX-License-Identifier: GPL-2.0
/*
 * Rejected: a trusted kernel pointer that is not the io, at the offset of an answer
 * field: what a check of the offset alone would let through.
 */
#include "../prog.h"

struct bpf_cpumask {
	__u32 words[64];
};

extern struct bpf_cpumask *bpf_cpumask_create(void) __ksym;
extern void bpf_cpumask_release(struct bpf_cpumask *mask) __ksym;

SEC("struct_ops/map")
int BPF_PROG(write_cpumask_map, struct ubd_bpf_io *io)
{
	struct bpf_cpumask *mask = bpf_cpumask_create();

	if (!mask)
		return UBD_MAP_DECLINE;
	*(volatile __u32 *)((void *)mask + offsetof(struct ubd_bpf_io, slot)) = 0;
	bpf_cpumask_release(mask);
	return identity(io);
}

UBD_TEST_PROGRAM(write_cpumask, write_cpumask_map, 0);
