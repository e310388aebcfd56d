// SPDX-License-Identifier: GPL-2.0
/*
 * The registry of programs by name, and which device asks which.
 *
 * The hot path holds RCU and nothing else. ubd_bpf_mutex orders registration,
 * update, removal, binding and listing: the core calls unreg from a link's
 * last put without any lock of its own.
 */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ubd.h"
#include "verdict.h"

/* This many bad verdicts within a second, and the program goes. */
#define UBD_EJECT_AFTER	64

/* At most so many programs are listed. */
#define UBD_LIST_MAX	1024

static DEFINE_MUTEX(ubd_bpf_mutex);	/* registry, bindings */
static LIST_HEAD(ubd_progs);		/* of struct ubd_prog, ubd_bpf_mutex */

/* ---- registered, updated and removed by the struct_ops core ---- */

static struct ubd_prog *ubd_prog_find(const char *name)
{
	struct ubd_prog *prog;

	lockdep_assert_held(&ubd_bpf_mutex);
	list_for_each_entry(prog, &ubd_progs, node)
		if (!strncmp(prog->name, name, sizeof(prog->name)))
			return prog;
	return NULL;
}

int ubd_prog_reg(void *kdata, struct bpf_link *link)
{
	struct ubd_bpf_ops *ops = kdata;
	struct ubd_prog *prog;
	int ret = 0;

	if (!link)
		return -EOPNOTSUPP;
	prog = kzalloc(sizeof(*prog), GFP_KERNEL);
	if (!prog)
		return -ENOMEM;
	INIT_LIST_HEAD(&prog->bindings);
	raw_spin_lock_init(&prog->bad_lock);
	memcpy(prog->name, ops->name, sizeof(prog->name));
	prog->flags = ops->flags;
	RCU_INIT_POINTER(prog->ops, ops);

	mutex_lock(&ubd_bpf_mutex);
	if (ubd_prog_find(prog->name))
		ret = -EEXIST;
	else
		list_add_tail(&prog->node, &ubd_progs);
	mutex_unlock(&ubd_bpf_mutex);
	if (ret)
		kfree(prog);
	return ret;
}

static void ubd_binding_drop(struct ubd_binding *bind)
{
	lockdep_assert_held(&ubd_bpf_mutex);
	RCU_INIT_POINTER(bind->ub->bind, NULL);
	RCU_INIT_POINTER(bind->ub->bound, NULL);
	list_del(&bind->node);
	kfree_rcu(bind, rcu);
}

/* From now on its devices decline. The core waits out RCU before it frees. */
void ubd_prog_unreg(void *kdata, struct bpf_link *link)
{
	struct ubd_bpf_ops *ops = kdata;
	struct ubd_binding *bind, *next;
	struct ubd_prog *prog;

	mutex_lock(&ubd_bpf_mutex);
	prog = ubd_prog_find(ops->name);
	if (!WARN_ON_ONCE(!prog)) {
		list_for_each_entry_safe(bind, next, &prog->bindings, node)
			ubd_binding_drop(bind);
		RCU_INIT_POINTER(prog->ops, NULL);
		list_del(&prog->node);
		kfree_rcu(prog, rcu);
	}
	mutex_unlock(&ubd_bpf_mutex);
}

/* Swap under load: one pointer for all devices. Clears an ejection. */
int ubd_prog_update(void *kdata, void *old_kdata, struct bpf_link *link)
{
	struct ubd_bpf_ops *ops = kdata, *old = old_kdata;
	struct ubd_prog *prog;
	unsigned long flags;
	int ret = 0;

	if (strncmp(ops->name, old->name, sizeof(ops->name)))
		return -EINVAL;
	mutex_lock(&ubd_bpf_mutex);
	prog = ubd_prog_find(ops->name);
	if (prog) {
		raw_spin_lock_irqsave(&prog->bad_lock, flags);
		prog->flags = ops->flags;
		prog->ejected = false;
		prog->bad_total = 0;
		prog->bad_recent = 0;
		prog->reason[0] = 0;
		rcu_assign_pointer(prog->ops, ops);
		raw_spin_unlock_irqrestore(&prog->bad_lock, flags);
	} else {
		ret = -ENOENT;
	}
	mutex_unlock(&ubd_bpf_mutex);
	return ret;
}

/* ---- bad verdicts ---- */

static void ubd_bad_reason(char *buf, size_t len, const struct ubd_bpf_io *io,
			   int verdict, enum ubd_bad bad)
{
	static const char * const what[] = {
		[UBD_BAD_RETURN] = "returned no known verdict",
		[UBD_BAD_ERRNO]	 = "returned an error that a disk does not have",
		[UBD_BAD_LENGTH] = "map_sectors is 0 or beyond the io",
		[UBD_BAD_ALIGN]	 = "not a multiple of the logical block",
		[UBD_BAD_SLOT]	 = "no such slot",
		[UBD_BAD_RANGE]	 = "outside the slot's window",
		[UBD_BAD_ACCESS] = "write to a read-only slot",
		[UBD_BAD_ZERO]	 = "ZERO for a write without UBD_OPS_DISCARD_WRITES",
	};

	snprintf(buf, len, "%s: op %u sector %llu+%u -> %d slot %u sector %llu+%u",
		 what[bad], io->op, io->sector, io->nr_sectors, verdict,
		 io->slot, io->map_sector, io->map_sectors);
}

/* Under RCU, any number of CPUs; the only lock of the hook is in here, a raw one. */
void ubd_bad_verdict(struct ubd_prog *prog, struct ubd_bpf_ops *ops,
		     const struct ubd_bpf_io *io, int verdict, int bad)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&prog->bad_lock, flags);
	/* Updated meanwhile? Then it is not the new one's fault. */
	if (rcu_access_pointer(prog->ops) != ops)
		goto unlock;
	prog->bad_total++;
	if (!prog->bad_recent || time_after(jiffies, prog->bad_since + HZ)) {
		prog->bad_since = jiffies;
		prog->bad_recent = 0;
	}
	ubd_bad_reason(prog->reason, sizeof(prog->reason), io, verdict, bad);
	if (++prog->bad_recent >= UBD_EJECT_AFTER) {
		prog->ejected = true;
		RCU_INIT_POINTER(prog->ops, NULL);
		pr_warn_ratelimited("ubd: program %s ejected: %s\n",
				    prog->name, prog->reason);
	}
unlock:
	raw_spin_unlock_irqrestore(&prog->bad_lock, flags);
}

/* ---- binding, listing, testing ---- */

static struct ubd_binding *ubd_bound(struct ubd_device *ub)
{
	return rcu_dereference_protected(ub->bound,
					 lockdep_is_held(&ubd_bpf_mutex));
}

int ubd_bind(struct ubd_device *ub, const char *name, u64 cookie)
{
	struct ubd_binding *bind, *old;
	struct ubd_prog *prog;
	int ret = 0;

	bind = kzalloc(sizeof(*bind), GFP_KERNEL);
	if (!bind)
		return -ENOMEM;
	bind->ub = ub;
	bind->cookie = cookie;

	mutex_lock(&ubd_bpf_mutex);
	prog = ubd_prog_find(name);
	if (!prog)
		ret = -ENOENT;
	else if (prog->ejected)
		ret = -ESHUTDOWN;
	else if (test_bit(UBD_ST_DELETED, &ub->state))
		ret = -ENODEV;
	if (!ret) {
		old = ubd_bound(ub);
		bind->prog = prog;
		list_add_tail(&bind->node, &prog->bindings);
		rcu_assign_pointer(ub->bound, bind);
		if (!ub->bind_parked)
			rcu_assign_pointer(ub->bind, bind);
		if (old) {
			list_del(&old->node);
			kfree_rcu(old, rcu);
		}
	}
	mutex_unlock(&ubd_bpf_mutex);
	if (ret)
		kfree(bind);
	return ret;
}

int ubd_unbind(struct ubd_device *ub)
{
	struct ubd_binding *bind;

	mutex_lock(&ubd_bpf_mutex);
	bind = ubd_bound(ub);
	if (bind)
		ubd_binding_drop(bind);
	mutex_unlock(&ubd_bpf_mutex);
	return bind ? 0 : -ENOENT;
}

/* A parked program stays bound, but is not asked: everything declines. */
void ubd_bind_park(struct ubd_device *ub, bool park)
{
	mutex_lock(&ubd_bpf_mutex);
	ub->bind_parked = park;
	rcu_assign_pointer(ub->bind, park ? NULL : ubd_bound(ub));
	mutex_unlock(&ubd_bpf_mutex);
}

static void ubd_prog_fill(struct ubd_prog_info *info, struct ubd_prog *prog)
{
	struct ubd_binding *bind;
	unsigned long flags;

	memcpy(info->name, prog->name, sizeof(info->name));
	list_for_each_entry(bind, &prog->bindings, node)
		info->nr_bound++;
	raw_spin_lock_irqsave(&prog->bad_lock, flags);
	info->flags = prog->flags;
	info->state = prog->ejected ? UBD_PROG_EJECTED : UBD_PROG_LIVE;
	info->bad_verdicts = prog->bad_total;
	memcpy(info->reason, prog->reason, sizeof(info->reason));
	raw_spin_unlock_irqrestore(&prog->bad_lock, flags);
}

int ubd_prog_list(struct ubd_prog_list __user *arg)
{
	struct ubd_prog_info *info;
	struct ubd_prog_list list;
	struct ubd_prog *prog;
	u32 room, nr = 0;
	int ret = 0;

	if (copy_from_user(&list, arg, sizeof(list)))
		return -EFAULT;
	if (list.reserved)
		return -EINVAL;
	/* User memory is not touched under the mutex that unreg needs. */
	room = min_t(u32, list.nr, UBD_LIST_MAX);
	info = kvcalloc(room ?: 1, sizeof(*info), GFP_KERNEL);
	if (!info)
		return -ENOMEM;
	mutex_lock(&ubd_bpf_mutex);
	list_for_each_entry(prog, &ubd_progs, node) {
		if (nr < room)
			ubd_prog_fill(&info[nr], prog);
		nr++;
	}
	mutex_unlock(&ubd_bpf_mutex);
	list.nr = nr;
	if (copy_to_user(u64_to_user_ptr(list.addr), info,
			 min(nr, room) * sizeof(*info)) ||
	    copy_to_user(arg, &list, sizeof(list)))
		ret = -EFAULT;
	kvfree(info);
	return ret;
}

/* map() on a made-up io, against made-up slots open for everything. */
int ubd_prog_test_run(struct ubd_test_run *run)
{
	unsigned int mask = (run->block_size >> SECTOR_SHIFT) - 1;
	const struct ubd_slot slot = {
		.nr_sectors = run->slot_sectors,
		.flags = UBD_SL_LIVE | UBD_SL_WRITE,
		.block_mask = mask,
	};
	struct ubd_bpf_ops *ops;
	struct ubd_prog *prog;
	u32 ops_flags = 0;
	int ret = 0;

	if (!is_power_of_2(run->block_size) || run->block_size < SECTOR_SIZE ||
	    run->block_size > PAGE_SIZE || !run->io.nr_sectors ||
	    run->io.nr_slots > UBD_MAX_SLOTS || run->reserved ||
	    run->io.reserved ||
	    (run->io.sector | run->io.nr_sectors) & mask)
		return -EINVAL;

	/* Holds off unreg and update; the program itself runs under RCU. */
	mutex_lock(&ubd_bpf_mutex);
	prog = ubd_prog_find(run->name);
	rcu_read_lock();
	ops = prog ? rcu_dereference(prog->ops) : NULL;
	if (ops) {
		ops_flags = ops->flags;
		run->verdict = ops->map(&run->io);
	} else {
		ret = prog ? -ESHUTDOWN : -ENOENT;
	}
	rcu_read_unlock();
	mutex_unlock(&ubd_bpf_mutex);
	if (ret)
		return ret;

	run->bad = ubd_check_verdict(run->verdict, &run->io, ops_flags, mask);
	if (!run->bad && run->verdict == UBD_MAP_BACKING)
		run->bad = ubd_check_slot(&slot, slot.flags, &run->io,
					  run->io.op);
	run->reason[0] = 0;
	if (run->bad)
		ubd_bad_reason(run->reason, sizeof(run->reason), &run->io,
			       run->verdict, run->bad);
	run->bad = !!run->bad;
	return 0;
}
