// SPDX-License-Identifier: GPL-2.0
/* Rejected: a kernel object that is not the io, at the offset of an answer field. */
#include "../prog.h"

/* Large enough that the offset of slot is inside. */
struct task_struct {
	__u32 words[64];
};

SEC("struct_ops/map")
int BPF_PROG(write_task_map, struct ubd_bpf_io *io)
{
	struct task_struct *task = bpf_get_current_task_btf();

	*(volatile __u32 *)((void *)task + offsetof(struct ubd_bpf_io, slot)) = 0;
	return identity(io);
}

UBD_TEST_PROGRAM(write_task, write_task_map, 0);
