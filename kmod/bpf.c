// SPDX-License-Identifier: GPL-2.0
/*
 * The hook: struct ubd_bpf_ops as a struct_ops type, and what the verifier lets
 * a program do. Registered programs are prog.c's.
 */
#include <linux/bpf.h>
#include <linux/bpf_verifier.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>

#include "ubd.h"

/* The BTF type of map()'s argument; set at the first program load. */
static const struct btf_type *ubd_io_type;
static bool ubd_bpf_ready;

/* ---- what the verifier lets a program do ---- */

static const struct bpf_func_proto *
ubd_func_proto(enum bpf_func_id id, const struct bpf_prog *prog)
{
	switch (id) {
	case BPF_FUNC_map_lookup_elem:
	case BPF_FUNC_map_update_elem:
	case BPF_FUNC_map_delete_elem:
	case BPF_FUNC_map_push_elem:
	case BPF_FUNC_map_pop_elem:
	case BPF_FUNC_map_peek_elem:
	case BPF_FUNC_map_lookup_percpu_elem:
	case BPF_FUNC_ktime_get_ns:
	case BPF_FUNC_ktime_get_boot_ns:
	case BPF_FUNC_ktime_get_coarse_ns:
	case BPF_FUNC_jiffies64:
	case BPF_FUNC_get_smp_processor_id:
	case BPF_FUNC_get_numa_node_id:
	case BPF_FUNC_get_prandom_u32:
	case BPF_FUNC_ringbuf_output:
	case BPF_FUNC_ringbuf_reserve:
	case BPF_FUNC_ringbuf_submit:
	case BPF_FUNC_ringbuf_discard:
	case BPF_FUNC_ringbuf_query:
	case BPF_FUNC_loop:
	case BPF_FUNC_strncmp:
	case BPF_FUNC_trace_printk:
	case BPF_FUNC_trace_vprintk:
		return bpf_base_func_proto(id, prog);
	default:
		return NULL;
	}
}

static bool ubd_is_valid_access(int off, int size, enum bpf_access_type type,
				const struct bpf_prog *prog,
				struct bpf_insn_access_aux *info)
{
	return bpf_tracing_btf_ctx_access(off, size, type, prog, info);
}

#define UBD_MAY_STORE(member)					\
	(off == offsetof(struct ubd_bpf_io, member) &&		\
	 size == sizeof_field(struct ubd_bpf_io, member))

/*
 * The verifier asks about stores through any kernel pointer, not only ours:
 * the type decides first, then exactly the answer's fields.
 */
static int ubd_btf_struct_access(struct bpf_verifier_log *log,
				 const struct bpf_reg_state *reg, int off,
				 int size)
{
	const struct btf_type *t = btf_type_by_id(reg->btf, reg->btf_id);

	if (!t || t != READ_ONCE(ubd_io_type)) {
		bpf_log(log, "only struct ubd_bpf_io may be written\n");
		return -EACCES;
	}
	/* One that was kept in a map points to where another's stack is now. */
	if (!(reg->type & PTR_TRUSTED)) {
		bpf_log(log, "only the struct ubd_bpf_io of this call may be written\n");
		return -EACCES;
	}
	if (UBD_MAY_STORE(slot) || UBD_MAY_STORE(map_sector) ||
	    UBD_MAY_STORE(map_sectors))
		return SCALAR_VALUE;
	bpf_log(log, "only slot, map_sector and map_sectors of struct ubd_bpf_io may be written, each whole (off %d size %d)\n",
		off, size);
	return -EACCES;
}

static const struct bpf_verifier_ops ubd_verifier_ops = {
	.get_func_proto		= ubd_func_proto,
	.is_valid_access	= ubd_is_valid_access,
	.btf_struct_access	= ubd_btf_struct_access,
};

/* ---- struct_ops ---- */

static int ubd_st_init(struct btf *btf)
{
	/* Only called when the module has BTF; see ubd_bpf_init(). */
	ubd_bpf_ready = true;
	return 0;
}

/* What the first argument of the function pointer @member points to. */
static const struct btf_type *ubd_arg_type(const struct btf *btf,
					   const struct btf_member *member)
{
	const struct btf_type *t = btf_type_by_id(btf, member->type);

	if (t && btf_type_is_ptr(t))
		t = btf_type_by_id(btf, t->type);
	if (!t || !btf_type_is_func_proto(t) || !btf_type_vlen(t))
		return NULL;
	t = btf_type_by_id(btf, btf_params(t)[0].type);
	if (!t || !btf_type_is_ptr(t))
		return NULL;
	return btf_type_by_id(btf, t->type);
}

/* Asked for every program before it is verified. */
static int ubd_st_check_member(const struct btf_type *t,
			       const struct btf_member *member,
			       const struct bpf_prog *prog)
{
	const struct btf_type *arg;

	if (__btf_member_bit_offset(t, member) / 8 !=
	    offsetof(struct ubd_bpf_ops, map))
		return -EINVAL;
	if (prog->sleepable)
		return -EINVAL;
	arg = ubd_arg_type(prog->aux->attach_btf, member);
	if (!arg || arg->size != sizeof(struct ubd_bpf_io))
		return -EINVAL;
	WRITE_ONCE(ubd_io_type, arg);
	return 0;
}

static int ubd_st_init_member(const struct btf_type *t,
			      const struct btf_member *member,
			      void *kdata, const void *udata)
{
	const struct ubd_bpf_ops *from = udata;
	struct ubd_bpf_ops *to = kdata;

	switch (__btf_member_bit_offset(t, member) / 8) {
	case offsetof(struct ubd_bpf_ops, flags):
		if (from->flags & ~UBD_OPS_FLAGS_ALL)
			return -EINVAL;
		to->flags = from->flags;
		return 1;
	case offsetof(struct ubd_bpf_ops, name):
		if (!from->name[0] ||
		    strnlen(from->name, sizeof(from->name)) ==
		    sizeof(from->name))
			return -EINVAL;
		memcpy(to->name, from->name, sizeof(to->name));
		return 1;
	}
	return 0;
}

static int ubd_st_validate(void *kdata)
{
	struct ubd_bpf_ops *ops = kdata;

	return ops->map && ops->name[0] ? 0 : -EINVAL;
}

static int ubd_bpf_ops__map(struct ubd_bpf_io *io)
{
	return UBD_MAP_DECLINE;
}

static struct ubd_bpf_ops ubd_cfi_stubs = {
	.map = ubd_bpf_ops__map,
};

static struct bpf_struct_ops ubd_struct_ops = {
	.verifier_ops	= &ubd_verifier_ops,
	.init		= ubd_st_init,
	.check_member	= ubd_st_check_member,
	.init_member	= ubd_st_init_member,
	.validate	= ubd_st_validate,
	.reg		= ubd_prog_reg,
	.unreg		= ubd_prog_unreg,
	.update		= ubd_prog_update,
	.cfi_stubs	= &ubd_cfi_stubs,
	.name		= "ubd_bpf_ops",
	.owner		= THIS_MODULE,
};

int ubd_bpf_init(void)
{
	int ret = register_bpf_struct_ops(&ubd_struct_ops, ubd_bpf_ops);

	if (ret)
		return ret;
	/* The core only warns about a module without BTF, or with a stale one. */
	if (!ubd_bpf_ready) {
		pr_err("ubd: this build has no usable BTF, so no program could ever be loaded.\n");
		pr_err("ubd: install pahole (package dwarves) and the headers of the running kernel, then rebuild the module.\n");
		return -ENOEXEC;
	}
	return 0;
}
