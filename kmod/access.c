// SPDX-License-Identifier: GPL-2.0
/*
 * Who may do what. A device belongs to root, as do the control commands; unless
 * somebody else added it as an unprivileged one. Then whoever the permissions
 * of its char device admit controls it, and its owner alone opens the disk,
 * beside root: the server behind it is nobody else's to trust.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "ubd.h"

bool ubd_is_unprivileged(struct ubd_device *ub)
{
	return ub->info.flags & UBLK_F_UNPRIVILEGED_DEV;
}

/* What a server without privileges cannot be trusted with is not for it. */
int ubd_check_flags(u64 *flags)
{
	const u64 recovery = UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE |
			     UBLK_F_USER_RECOVERY_REISSUE |
			     UBLK_F_USER_RECOVERY_FAIL_IO;

	if (capable(CAP_SYS_ADMIN)) {
		*flags &= ~(u64)UBLK_F_UNPRIVILEGED_DEV;
		return 0;
	}
	if (!(*flags & UBLK_F_UNPRIVILEGED_DEV))
		return -EPERM;
	/*
	 * Memory of a request that it does not fill would be shown; and who
	 * lets a request wait could not be told.
	 */
	if (*flags & (UBD_LENDING | UBLK_F_BATCH_IO))
		return -EINVAL;
	/* Nobody should have to wait for a next server that never comes. */
	*flags &= ~recovery;
	return 0;
}

static int ubd_check_node(struct ubd_device *ub, const char *name, int mask)
{
	struct inode *inode;
	struct path path;
	int ret;

	ret = kern_path(name, LOOKUP_FOLLOW, &path);
	if (ret)
		return ret;
	inode = d_backing_inode(path.dentry);
	/* Nor is it a node where none counts, such as a file system of theirs. */
	if (path.mnt->mnt_flags & MNT_NODEV ||
	    path.mnt->mnt_sb->s_iflags & SB_I_NODEV || !S_ISCHR(inode->i_mode) || inode->i_rdev != ub->cdev_dev.devt)
		ret = -EPERM;
	else
		ret = inode_permission(mnt_idmap(path.mnt), inode, mask);
	path_put(&path);
	return ret;
}

/*
 * May the caller give commands to the device? It proves that by the path of
 * the char device, of @len bytes at @path, for @mask; root need not.
 */
int ubd_check_access(struct ubd_device *ub, const void __user *path,
		     unsigned int len, int mask)
{
	char *name;
	int ret;

	if (capable(CAP_SYS_ADMIN))
		return 0;
	if (!ubd_is_unprivileged(ub))
		return -EPERM;
	if (!len || len >= PATH_MAX)
		return -EINVAL;
	name = memdup_user_nul(path, len);
	if (IS_ERR(name))
		return PTR_ERR(name);
	ret = ubd_check_node(ub, name, mask);
	kfree(name);
	return ret;
}

int ubd_check_open(struct ubd_device *ub)
{
	if (test_bit(UBD_ST_SHUT, &ub->state))
		return -ENXIO;
	if (!ubd_is_unprivileged(ub) || capable(CAP_SYS_ADMIN))
		return 0;
	return from_kuid(&init_user_ns, current_uid()) == ub->info.owner_uid &&
	       from_kgid(&init_user_ns, current_gid()) == ub->info.owner_gid ?
	       0 : -EPERM;
}

/* The char device's node is its owner's from the start. */
static char *ubd_chr_devnode(const struct device *dev, umode_t *mode,
			     kuid_t *uid, kgid_t *gid)
{
	struct ubd_device *ub = container_of(dev, struct ubd_device, cdev_dev);

	/* Who takes the node away asks for its name alone. */
	if (uid && gid && ubd_is_unprivileged(ub)) {
		*uid = make_kuid(&init_user_ns, ub->info.owner_uid);
		*gid = make_kgid(&init_user_ns, ub->info.owner_gid);
	}
	return NULL;
}

const struct device_type ubd_chr_type = {
	.name		= "ubd-char",
	.devnode	= ubd_chr_devnode,
};
