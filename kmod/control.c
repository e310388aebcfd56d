// SPDX-License-Identifier: GPL-2.0
/*
 * ublk's control commands, as uring_cmds on /dev/ubd-control. All of them may
 * sleep, so none runs inline in a nonblocking submission.
 */
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/uaccess.h>

#include "ubd.h"

#define UBD_PARAM_TYPES \
	(UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD | UBLK_PARAM_TYPE_DEVT | \
	 UBLK_PARAM_TYPE_DMA_ALIGN | UBLK_PARAM_TYPE_SEGMENT)

/* As ublk's. */
#define UBD_MAX_DESC_BYTES	256

/* The command as the submitter wrote it, read once from shared memory. */
struct ubd_ctl {
	u32 cmd_op;
	u32 dev_id;
	u16 queue_id;
	u16 len;
	void __user *buf;
	u64 data;
	u16 path_len;
};

/* header of struct ubd_params */
struct ubd_params_header {
	__u32 len;
	__u32 types;
};

/* Recovery has one policy, and without it others mean nothing. */
static bool ubd_flags_ok(u64 *flags)
{
	const u64 how = UBLK_F_USER_RECOVERY_REISSUE |
			UBLK_F_USER_RECOVERY_FAIL_IO;

	/* Who copies by itself gets nothing copied, now or later. */
	if (*flags & (UBD_LENDING | UBLK_F_BATCH_IO))
		*flags &= ~(u64)UBLK_F_NEED_GET_DATA;
	/* Any task serves any tag. */
	if (*flags & UBLK_F_BATCH_IO)
		*flags &= ~UBLK_F_PER_IO_DAEMON;
	if (!(*flags & UBLK_F_USER_RECOVERY)) {
		*flags &= ~UBLK_F_QUIESCE;
		return !(*flags & how);
	}
	return (*flags & how) != how;
}

static int ubd_ctl_add(const struct ubd_ctl *c)
{
	struct ublksrv_ctrl_dev_info info;
	struct ubd_device *ub;
	int ret;

	if (!c->buf || c->len < sizeof(info) || c->queue_id != (u16)-1)
		return -EINVAL;
	if (copy_from_user(&info, c->buf, sizeof(info)))
		return -EFAULT;
	if (info.dev_id != c->dev_id)
		return -EINVAL;
	if (info.dev_id != U32_MAX && info.dev_id >= UBD_MAX_DEVICES)
		return -EINVAL;
	if (!info.queue_depth || info.queue_depth > UBLK_MAX_QUEUE_DEPTH ||
	    !info.nr_hw_queues || info.nr_hw_queues > UBLK_MAX_NR_QUEUES)
		return -EINVAL;
	/* As ublk: what is not supported is cleared, and read back. */
	info.flags = (info.flags & UBD_UBLK_FEATURES) | UBD_UBLK_ALWAYS;
	if (!ubd_flags_ok(&info.flags))
		return -EINVAL;
	ret = ubd_check_flags(&info.flags);
	if (ret)
		return ret;
	if (!(info.flags & UBLK_F_IO_DESC_SIZE))
		ubd_desc_bytes(&info) = sizeof(struct ublksrv_io_desc);
	else if (ubd_desc_bytes(&info) < sizeof(struct ublksrv_io_desc) ||
		 ubd_desc_bytes(&info) > UBD_MAX_DESC_BYTES ||
		 ubd_desc_bytes(&info) % sizeof(u64))
		return -EINVAL;
	info.state = UBLK_S_DEV_DEAD;
	info.ublksrv_pid = -1;
	info.nr_hw_queues = min_t(u32, info.nr_hw_queues, nr_cpu_ids);
	info.max_io_buf_bytes = round_down(info.max_io_buf_bytes, PAGE_SIZE);
	info.owner_uid = from_kuid_munged(&init_user_ns, current_uid());
	info.owner_gid = from_kgid_munged(&init_user_ns, current_gid());
	if (!info.max_io_buf_bytes ||
	    info.max_io_buf_bytes > 1U << UBLK_IO_BUF_BITS)
		return -EINVAL;

	ret = ubd_add(&info);
	if (ret)
		return ret;
	if (!copy_to_user(c->buf, &info, sizeof(info)))
		return 0;
	/* The caller would not know which one it got. */
	ub = ubd_get_device(info.dev_id);
	if (ub) {
		ubd_delete(ub, false);
		ubd_put_device(ub);
	}
	return -EFAULT;
}

static int ubd_ctl_get_info(struct ubd_device *ub, const struct ubd_ctl *c)
{
	struct ublksrv_ctrl_dev_info info;

	if (c->len < sizeof(info) || !c->buf)
		return -EINVAL;
	mutex_lock(&ub->mutex);
	info = ub->info;
	mutex_unlock(&ub->mutex);
	return copy_to_user(c->buf, &info, sizeof(info)) ? -EFAULT : 0;
}

static int ubd_check_params(struct ubd_device *ub, const struct ubd_params *p)
{
	const struct ublk_param_basic *b = &p->basic;
	const struct ublk_param_discard *d = &p->discard;
	const struct ublk_param_segment *s = &p->seg;

	if (!(p->types & UBLK_PARAM_TYPE_BASIC) ||
	    p->types & UBLK_PARAM_TYPE_DEVT)	/* read-only */
		return -EINVAL;
	if (b->logical_bs_shift < SECTOR_SHIFT ||
	    b->logical_bs_shift > PAGE_SHIFT ||
	    b->logical_bs_shift > b->physical_bs_shift ||
	    b->physical_bs_shift > 30 || b->io_min_shift > 30 ||
	    b->io_opt_shift > 30)
		return -EINVAL;
	/*
	 * Where a chunk has no room for a block, the core does not split at
	 * all (6.12), and requests outgrow the server's buffers.
	 */
	if (b->chunk_sectors &
	    ((1U << (b->logical_bs_shift - SECTOR_SHIFT)) - 1))
		return -EINVAL;
	if (b->max_sectors < PAGE_SECTORS ||
	    b->max_sectors > ub->info.max_io_buf_bytes >> SECTOR_SHIFT)
		return -EINVAL;
	if (b->dev_sectors > LLONG_MAX >> SECTOR_SHIFT)
		return -EINVAL;
	if (p->types & UBLK_PARAM_TYPE_DISCARD &&
	    ((d->max_discard_sectors && d->max_discard_segments != 1) ||
	     !d->discard_granularity))
		return -EINVAL;
	/* The core would warn of these, or take no segments for its default. */
	if (p->types & UBLK_PARAM_TYPE_DMA_ALIGN &&
	    (p->dma.alignment >= PAGE_SIZE ||
	     p->dma.alignment & (p->dma.alignment + 1)))
		return -EINVAL;
	if (p->types & UBLK_PARAM_TYPE_SEGMENT &&
	    (s->seg_boundary_mask & (s->seg_boundary_mask + 1) ||
	     s->seg_boundary_mask < UBLK_MIN_SEGMENT_SIZE - 1 ||
	     s->max_segment_size < UBLK_MIN_SEGMENT_SIZE ||
	     !s->max_segments))
		return -EINVAL;
	return 0;
}

static int ubd_params_header(const struct ubd_ctl *c,
			     struct ubd_params_header *ph)
{
	if (c->len <= sizeof(*ph) || !c->buf)
		return -EINVAL;
	if (copy_from_user(ph, c->buf, sizeof(*ph)))
		return -EFAULT;
	if (ph->len > c->len || ph->len < sizeof(*ph))
		return -EINVAL;
	ph->len = min_t(u32, ph->len, sizeof(struct ubd_params));
	return 0;
}

static int ubd_ctl_set_params(struct ubd_device *ub, const struct ubd_ctl *c)
{
	struct ubd_params params = { };
	struct ubd_params_header ph;
	int ret;

	ret = ubd_params_header(c, &ph);
	if (ret)
		return ret;
	if (copy_from_user(&params, c->buf, ph.len))
		return -EFAULT;
	params.len = ph.len;
	params.types = ph.types & UBD_PARAM_TYPES;

	mutex_lock(&ub->mutex);
	ret = ub->front || test_bit(UBD_ST_FRONT, &ub->state) ?
		-EACCES : ubd_check_params(ub, &params);
	if (!ret)
		ub->params = params;
	mutex_unlock(&ub->mutex);
	return ret;
}

static int ubd_ctl_get_params(struct ubd_device *ub, const struct ubd_ctl *c)
{
	struct ubd_params_header ph;
	struct ubd_params params;
	int ret;

	ret = ubd_params_header(c, &ph);
	if (ret)
		return ret;
	mutex_lock(&ub->mutex);
	params = ub->params;
	params.types |= UBLK_PARAM_TYPE_DEVT;
	params.devt.char_major = MAJOR(ub->cdev_dev.devt);
	params.devt.char_minor = MINOR(ub->cdev_dev.devt);
	params.devt.disk_major = ub->front ? MAJOR(disk_devt(ub->front)) : 0;
	params.devt.disk_minor = ub->front ? MINOR(disk_devt(ub->front)) : 0;
	mutex_unlock(&ub->mutex);
	return copy_to_user(c->buf, &params, ph.len) ? -EFAULT : 0;
}

static int ubd_ctl_affinity(struct ubd_device *ub, const struct ubd_ctl *c)
{
	const struct blk_mq_queue_map *map =
		&ub->tag_set.map[HCTX_TYPE_DEFAULT];
	cpumask_var_t mask;
	u32 len = c->len;
	int cpu, ret = 0;

	if (!c->buf || len * BITS_PER_BYTE < nr_cpu_ids ||
	    len & (sizeof(unsigned long) - 1) ||
	    c->data >= ub->info.nr_hw_queues)
		return -EINVAL;
	if (!zalloc_cpumask_var(&mask, GFP_KERNEL))
		return -ENOMEM;
	for_each_possible_cpu(cpu)
		if (map->mq_map[cpu] == c->data)
			cpumask_set_cpu(cpu, mask);
	len = min_t(u32, len, cpumask_size());
	if (copy_to_user(c->buf, mask, len) ||
	    clear_user(c->buf + len, c->len - len))
		ret = -EFAULT;
	free_cpumask_var(mask);
	return ret;
}

static int ubd_ctl_features(const struct ubd_ctl *c)
{
	u64 features = UBD_UBLK_FEATURES;

	if (c->len != UBLK_FEATURES_LEN || !c->buf)
		return -EINVAL;
	return copy_to_user(c->buf, &features, sizeof(features)) ? -EFAULT : 0;
}

static int ubd_ctl_device_cmd(struct ubd_device *ub, const struct ubd_ctl *c)
{
	switch (c->cmd_op) {
	case UBLK_U_CMD_GET_DEV_INFO:
	case UBLK_U_CMD_GET_DEV_INFO2:
		return ubd_ctl_get_info(ub, c);
	case UBLK_U_CMD_SET_PARAMS:
		return ubd_ctl_set_params(ub, c);
	case UBLK_U_CMD_GET_PARAMS:
		return ubd_ctl_get_params(ub, c);
	case UBLK_U_CMD_GET_QUEUE_AFFINITY:
		return ubd_ctl_affinity(ub, c);
	case UBLK_U_CMD_START_DEV:
		return ubd_start(ub, (int)c->data);
	case UBLK_U_CMD_STOP_DEV:
		return ubd_stop(ub);
	case UBLK_U_CMD_TRY_STOP_DEV:
		return ubd_try_stop(ub);
	case UBLK_U_CMD_DEL_DEV:
		return ubd_delete(ub, true);
	case UBLK_U_CMD_DEL_DEV_ASYNC:
		return ubd_delete(ub, false);
	case UBLK_U_CMD_START_USER_RECOVERY:
		return ubd_start_recovery(ub);
	case UBLK_U_CMD_END_USER_RECOVERY:
		return ubd_end_recovery(ub, (int)c->data);
	case UBLK_U_CMD_QUIESCE_DEV:
		return ubd_quiesce(ub, c->data);
	case UBLK_U_CMD_UPDATE_SIZE:
		return ubd_update_size(ub, c->data);
	default:
		return -EOPNOTSUPP;
	}
}

/*
 * A command for an unprivileged device, and GET_DEV_INFO2 for any, has the char
 * device's path before its buffer. Takes that off.
 */
static int ubd_ctl_permit(struct ubd_device *ub, struct ubd_ctl *c)
{
	bool info2 = c->cmd_op == UBLK_U_CMD_GET_DEV_INFO2;
	void __user *path = c->buf;
	int mask;

	if (info2 && (!path || !c->path_len || c->path_len >= PATH_MAX))
		return -EINVAL;
	if (!info2 && !ubd_is_unprivileged(ub))
		c->path_len = 0;
	if (c->path_len > c->len)
		return -EINVAL;
	c->len -= c->path_len;
	c->buf = c->len ? path + c->path_len : NULL;

	switch (c->cmd_op) {
	case UBLK_U_CMD_GET_DEV_INFO:
	case UBLK_U_CMD_GET_DEV_INFO2:
	case UBLK_U_CMD_GET_PARAMS:
	case UBLK_U_CMD_GET_QUEUE_AFFINITY:
		mask = MAY_READ;
		break;
	default:
		mask = MAY_READ | MAY_WRITE;
	}
	return ubd_check_access(ub, path, c->path_len, mask);
}

static int ubd_ctl_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	const struct ublksrv_ctrl_cmd *src = ubd_cmd_arg(cmd);
	struct ubd_device *ub;
	struct ubd_ctl c;
	int ret;

	if (issue_flags & IO_URING_F_NONBLOCK)
		return -EAGAIN;
	if (!(issue_flags & IO_URING_F_SQE128))
		return -EINVAL;
	c.cmd_op = cmd->cmd_op;
	c.dev_id = READ_ONCE(src->dev_id);
	c.queue_id = READ_ONCE(src->queue_id);
	c.len = READ_ONCE(src->len);
	c.buf = u64_to_user_ptr(READ_ONCE(src->addr));
	c.data = READ_ONCE(src->data[0]);
	c.path_len = READ_ONCE(src->dev_path_len);

	if (c.cmd_op == UBLK_U_CMD_GET_FEATURES)
		return ubd_ctl_features(&c);
	if (c.cmd_op == UBLK_U_CMD_ADD_DEV)
		return ubd_ctl_add(&c);

	ub = ubd_get_device(c.dev_id);
	if (!ub)
		return capable(CAP_SYS_ADMIN) ? -ENODEV : -EPERM;
	ret = ubd_ctl_permit(ub, &c);
	if (!ret)
		ret = ubd_ctl_device_cmd(ub, &c);
	ubd_put_device(ub);
	return ret;
}

const struct file_operations ubd_ctl_fops = {
	.owner		= THIS_MODULE,
	.open		= nonseekable_open,
	.uring_cmd	= ubd_ctl_uring_cmd,
	.unlocked_ioctl	= ubd_ctl_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};
