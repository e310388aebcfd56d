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

static long ubd_ioc_reg_slot(void __user *arg)
{
	struct ubd_slot_reg reg;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&reg, arg, sizeof(reg)))
		return -EFAULT;
	ub = ubd_own_device(reg.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_slot_register(ub, &reg);
	/* Not told which one it is, nobody would ever take it back. */
	if (!ret && copy_to_user(arg, &reg, sizeof(reg))) {
		ubd_slot_unregister(ub, reg.slot);
		ret = -EFAULT;
	}
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_unreg_slot(void __user *arg)
{
	struct ubd_slot_unreg unreg;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&unreg, arg, sizeof(unreg)))
		return -EFAULT;
	ub = ubd_own_device(unreg.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_slot_unregister(ub, unreg.slot);
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_list_slots(void __user *arg)
{
	struct ubd_slot_list list;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&list, arg, sizeof(list)))
		return -EFAULT;
	ub = ubd_own_device(list.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_slot_list(ub, arg);
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_bind(void __user *arg)
{
	struct ubd_bind bind;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&bind, arg, sizeof(bind)))
		return -EFAULT;
	if (bind.flags || !ubd_name_ok(bind.name))
		return -EINVAL;
	ub = ubd_own_device(bind.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_bind(ub, bind.name, bind.cookie);
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_unbind(void __user *arg)
{
	struct ubd_unbind unbind;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&unbind, arg, sizeof(unbind)))
		return -EFAULT;
	if (unbind.reserved)
		return -EINVAL;
	ub = ubd_own_device(unbind.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_unbind(ub);
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_fence(void __user *arg)
{
	struct ubd_fence fence;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&fence, arg, sizeof(fence)))
		return -EFAULT;
	if (fence.reserved)
		return -EINVAL;
	ub = ubd_own_device(fence.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_fence(ub);
	ubd_put_device(ub);
	return ret;
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

static long ubd_ioc_set_policy(void __user *arg)
{
	struct ubd_policy policy;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&policy, arg, sizeof(policy)))
		return -EFAULT;
	ub = ubd_own_device(policy.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_set_policy(ub, policy.flags);
	ubd_put_device(ub);
	return ret;
}

static long ubd_ioc_resize_slot(void __user *arg)
{
	struct ubd_slot_resize resize;
	struct ubd_device *ub;
	long ret;

	if (copy_from_user(&resize, arg, sizeof(resize)))
		return -EFAULT;
	ub = ubd_own_device(resize.dev_id);
	if (IS_ERR(ub))
		return PTR_ERR(ub);
	ret = ubd_slot_resize(ub, &resize);
	ubd_put_device(ub);
	if (!ret && copy_to_user(arg, &resize, sizeof(resize)))
		ret = -EFAULT;
	return ret;
}

long ubd_ctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	if (cmd == UBD_CMD_FEATURES)
		return ubd_ioc_features(argp);
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (cmd) {
	case UBD_CMD_REG_SLOT:
		return ubd_ioc_reg_slot(argp);
	case UBD_CMD_UNREG_SLOT:
		return ubd_ioc_unreg_slot(argp);
	case UBD_CMD_LIST_SLOTS:
		return ubd_ioc_list_slots(argp);
	case UBD_CMD_BIND:
		return ubd_ioc_bind(argp);
	case UBD_CMD_UNBIND:
		return ubd_ioc_unbind(argp);
	case UBD_CMD_LIST_PROGS:
		return ubd_prog_list(argp);
	case UBD_CMD_FENCE:
		return ubd_ioc_fence(argp);
	case UBD_CMD_SET_POLICY:
		return ubd_ioc_set_policy(argp);
	case UBD_CMD_RESIZE_SLOT:
		return ubd_ioc_resize_slot(argp);
	case UBD_CMD_TEST_RUN:
		return ubd_ioc_test_run(argp);
	default:
		return -ENOTTY;
	}
}
