// SPDX-License-Identifier: GPL-2.0
/*
 * Rejected: a trusted kernel pointer that is not the io, at the offset of an answer
 * field: what a check of the offset, or of the trust, alone would let through.
 */
#include "../prog.h"

/* The loader compares what kind of thing a type is, and not what is in it. */
struct task_struct {
	int any;
};

struct vm_area_struct {
	int any;
};

struct bpf_iter_task_vma {
	__u64 opaque;
};

extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;
extern int bpf_iter_task_vma_new(struct bpf_iter_task_vma *it,
				 struct task_struct *task, __u64 addr) __ksym;
extern struct vm_area_struct *
bpf_iter_task_vma_next(struct bpf_iter_task_vma *it) __ksym;
extern void bpf_iter_task_vma_destroy(struct bpf_iter_task_vma *it) __ksym;

SEC("struct_ops/map")
int BPF_PROG(write_vma_map, struct ubd_bpf_io *io)
{
	struct task_struct *task = bpf_task_from_pid(1);
	struct bpf_iter_task_vma it;
	struct vm_area_struct *vma;

	if (!task)
		return UBD_MAP_DECLINE;
	bpf_iter_task_vma_new(&it, task, 0);
	vma = bpf_iter_task_vma_next(&it);
	if (vma)
		*(volatile __u32 *)((void *)vma +
				    offsetof(struct ubd_bpf_io, slot)) = 0;
	bpf_iter_task_vma_destroy(&it);
	bpf_task_release(task);
	return identity(io);
}

UBD_TEST_PROGRAM(write_vma, write_vma_map, 0);
