// SPDX-License-Identifier: GPL-2.0
/* ubd's own commands: slots and programs. See ubd_cmd.h. */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ubd.h"

/* The device, if the caller owns it. */
static struct ubd_device *ubd_own_device(u32 id)
{
	struct ubd_device *ub = id < UBD_MAX_DEVICES ? ubd_get_device(id) : NULL;

	if (!ub)
		return ERR_PTR(-ENODEV);
	/* Those have neither slots nor programs, root's included. */
	if (ubd_is_unprivileged(ub) || ub->info.owner_uid !=
	    from_kuid_munged(&init_user_ns, current_uid())) {
		ubd_put_device(ub);
		return ERR_PTR(-EPERM);
	}
	return ub;
}

static bool ubd_name_ok(const char *name)
{
	return name[0] && memchr(name, 0, UBD_OPS_NAME_LEN);
}

static long ubd_ioc_features(void __user *arg)
{
	struct ubd_features f = {
		.features = UBD_F_BPF_FASTPATH | UBD_F_BLOCK_SLOTS |
			    UBD_F_FILE_SLOTS | UBD_F_TEST_RUN |
			    UBD_F_FENCE | UBD_F_FILE_INLINE |
			    UBD_F_FORWARD | UBD_F_POLICY |
			    UBD_F_RESIZE_SLOT,
		.ublk_features = UBD_UBLK_FEATURES,
		.max_slots = UBD_MAX_SLOTS,
		.max_queue_depth = UBLK_MAX_QUEUE_DEPTH,
		.version = UBD_VERSION,
	};

	return copy_to_user(arg, &f, sizeof(f)) ? -EFAULT : 0;
}

static long ubd_ioc_test_run(void __user *arg)
{
	struct ubd_test_run *run = memdup_user(arg, sizeof(*run));
	long ret;

	if (IS_ERR(run))
		return PTR_ERR(run);
	ret = ubd_name_ok(run->name) ? ubd_prog_test_run(run) : -EINVAL;
	if (!ret && copy_to_user(arg, run, sizeof(*run)))
		ret = -EFAULT;
	kfree(run);
	return ret;
}

/* The argument of a command for a device, which it names first. */
union ubd_ioc {
	__u32 dev_id;
	struct ubd_slot_reg reg;
	struct ubd_slot_unreg unreg;
	struct ubd_slot_list list;
	struct ubd_slot_resize resize;
	struct ubd_bind bind;
	struct ubd_unbind unbind;
	struct ubd_fence fence;
	struct ubd_policy policy;
};

static long ubd_ioc_run(struct ubd_device *ub, unsigned int cmd,
			union ubd_ioc *c)
{
	switch (cmd) {
	case UBD_CMD_REG_SLOT:
		return ubd_slot_register(ub, &c->reg);
	case UBD_CMD_UNREG_SLOT:
		return ubd_slot_unregister(ub, c->unreg.slot);
	case UBD_CMD_LIST_SLOTS:
		return ubd_slot_list(ub, &c->list);
	case UBD_CMD_RESIZE_SLOT:
		return ubd_slot_resize(ub, &c->resize);
	case UBD_CMD_BIND:
		if (c->bind.flags || !ubd_name_ok(c->bind.name))
			return -EINVAL;
		return ubd_bind(ub, c->bind.name, c->bind.cookie);
	case UBD_CMD_UNBIND:
		return c->unbind.reserved ? -EINVAL : ubd_unbind(ub);
	case UBD_CMD_FENCE:
		return c->fence.reserved ? -EINVAL : ubd_fence(ub);
	case UBD_CMD_SET_POLICY:
		return ubd_set_policy(ub, c->policy.flags);
	default:
		return -ENOTTY;
	}
}

static bool ubd_ioc_is_known(unsigned int cmd)
{
	static const unsigned int known[] = {
		UBD_CMD_REG_SLOT, UBD_CMD_UNREG_SLOT, UBD_CMD_LIST_SLOTS,
		UBD_CMD_RESIZE_SLOT, UBD_CMD_BIND, UBD_CMD_UNBIND,
		UBD_CMD_FENCE, UBD_CMD_SET_POLICY,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (known[i] == cmd)
			return true;
	return false;
}

static long ubd_ioc_device(unsigned int cmd, void __user *arg)
{
	struct ubd_device *ub;
	union ubd_ioc c;
	long ret;

	if (!ubd_ioc_is_known(cmd))
		return -ENOTTY;
	memset(&c, 0, sizeof(c));
	if (copy_from_user(&c, arg, _IOC_SIZE(cmd)))
		return -EFAULT;
	ub = ubd_own_device(c.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_ioc_run(ub, cmd, &c);
	if (!ret && _IOC_DIR(cmd) & _IOC_READ &&
	    copy_to_user(arg, &c, _IOC_SIZE(cmd))) {
		/* Not told which one it is, nobody would ever take it back. */
		if (cmd == UBD_CMD_REG_SLOT)
			ubd_slot_unregister(ub, c.reg.slot);
		ret = -EFAULT;
	}
	ubd_put_device(ub);
	return ret;
}

long ubd_ctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	if (cmd == UBD_CMD_FEATURES)
		return ubd_ioc_features(argp);
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (cmd == UBD_CMD_LIST_PROGS)
		return ubd_prog_list(argp);
	if (cmd == UBD_CMD_TEST_RUN)
		return ubd_ioc_test_run(argp);
	return ubd_ioc_device(cmd, argp);
}
