// SPDX-License-Identifier: GPL-2.0
/* /sys/block/ubdbN/ubd/: counters and state, one value a file. */
#include <linux/device.h>
#include <linux/sysfs.h>

#include "ubd.h"

/* A counter: where it lies in struct ubd_stats, and how many to add up. */
struct ubd_counter {
	struct device_attribute attr;
	u16 first;		/* index in u64s */
	u16 stride;		/* between the terms of a sum */
	u16 terms;
};

#define UBD_WORD(member)	(offsetof(struct ubd_stats, member) / sizeof(u64))

static struct ubd_device *ubd_of(struct device *dev)
{
	return dev_to_disk(dev)->private_data;
}

static ssize_t ubd_counter_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	struct ubd_counter *c = container_of(attr, struct ubd_counter, attr);
	struct ubd_device *ub = ubd_of(dev);
	u64 sum = 0;
	int cpu, i;

	for_each_possible_cpu(cpu) {
		const u64 *words = (u64 *)per_cpu_ptr(ub->stats, cpu);

		for (i = 0; i < c->terms; i++)
			sum += READ_ONCE(words[c->first + i * c->stride]);
	}
	return sysfs_emit(buf, "%llu\n", sum);
}

#define UBD_SUM(_name, _first, _stride, _terms)				\
static struct ubd_counter ubd_ctr_##_name = {				\
	.attr = __ATTR(_name, 0444, ubd_counter_show, NULL),		\
	.first = _first, .stride = _stride, .terms = _terms,		\
}

#define UBD_COUNTER(name, first, terms)					\
	UBD_SUM(name, first, UBD_N_NR, terms)

#define UBD_OP_COUNTERS(name, OP)						\
UBD_COUNTER(name##_mapped, UBD_WORD(op[UBD_IDX_##OP][UBD_N_MAPPED]), 1);	\
UBD_COUNTER(name##_zero, UBD_WORD(op[UBD_IDX_##OP][UBD_N_ZERO]), 1);	\
UBD_COUNTER(name##_declined, UBD_WORD(op[UBD_IDX_##OP][UBD_N_DECLINED]), 1);\
UBD_COUNTER(name##_forwarded, UBD_WORD(forwarded[UBD_IDX_##OP][0]), 1);	\
UBD_COUNTER(name##_forwarded_sectors,					\
	    UBD_WORD(forwarded[UBD_IDX_##OP][1]), 1);			\
UBD_COUNTER(name##_error, UBD_WORD(op[UBD_IDX_##OP][UBD_N_ERROR]), 1);	\
UBD_COUNTER(name##_bad, UBD_WORD(op[UBD_IDX_##OP][UBD_N_BAD]), 1);	\
UBD_COUNTER(name##_mapped_sectors,					\
	    UBD_WORD(op[UBD_IDX_##OP][UBD_N_MAPPED_SECTORS]), 1);	\
UBD_COUNTER(name##_zero_sectors,						\
	    UBD_WORD(op[UBD_IDX_##OP][UBD_N_ZERO_SECTORS]), 1);		\
UBD_COUNTER(name##_declined_sectors,					\
	    UBD_WORD(op[UBD_IDX_##OP][UBD_N_DECLINED_SECTORS]), 1)

#define UBD_OP_ATTRS(op)						\
	&ubd_ctr_##op##_mapped.attr.attr,				\
	&ubd_ctr_##op##_zero.attr.attr,					\
	&ubd_ctr_##op##_declined.attr.attr,				\
	&ubd_ctr_##op##_forwarded.attr.attr,				\
	&ubd_ctr_##op##_error.attr.attr,				\
	&ubd_ctr_##op##_bad.attr.attr,					\
	&ubd_ctr_##op##_mapped_sectors.attr.attr,			\
	&ubd_ctr_##op##_zero_sectors.attr.attr,				\
	&ubd_ctr_##op##_declined_sectors.attr.attr,			\
	&ubd_ctr_##op##_forwarded_sectors.attr.attr

UBD_OP_COUNTERS(read, READ);
UBD_OP_COUNTERS(write, WRITE);
UBD_OP_COUNTERS(discard, DISCARD);
UBD_OP_COUNTERS(write_zeroes, WRITE_ZEROES);
/* A flush has no sectors, and no program sees it. */
UBD_COUNTER(flush_mapped, UBD_WORD(op[UBD_IDX_FLUSH][UBD_N_MAPPED]), 1);
UBD_COUNTER(flush_declined, UBD_WORD(op[UBD_IDX_FLUSH][UBD_N_DECLINED]), 1);

UBD_COUNTER(mapped, UBD_WORD(op[0][UBD_N_MAPPED]), UBD_IDX_NR);
UBD_COUNTER(zero, UBD_WORD(op[0][UBD_N_ZERO]), UBD_IDX_NR);
UBD_COUNTER(declined, UBD_WORD(op[0][UBD_N_DECLINED]), UBD_IDX_NR);
UBD_SUM(forwarded, UBD_WORD(forwarded[0][0]), 2, UBD_IDX_NR);
UBD_SUM(forwarded_sectors, UBD_WORD(forwarded[0][1]), 2, UBD_IDX_NR);
UBD_COUNTER(error, UBD_WORD(op[0][UBD_N_ERROR]), UBD_IDX_NR);
UBD_COUNTER(bad, UBD_WORD(op[0][UBD_N_BAD]), UBD_IDX_NR);
UBD_COUNTER(splits, UBD_WORD(splits), 1);
UBD_COUNTER(eagain, UBD_WORD(eagain), 1);
UBD_COUNTER(file_inline, UBD_WORD(file_inline), 1);
UBD_COUNTER(file_worker, UBD_WORD(file_worker), 1);
UBD_COUNTER(inline_eagain, UBD_WORD(inline_eagain), 1);
UBD_COUNTER(tracked, UBD_WORD(tracked), 1);
UBD_COUNTER(fences, UBD_WORD(fences), 1);
UBD_COUNTER(flush_slots, UBD_WORD(flush_slots), 1);
UBD_COUNTER(flush_daemon, UBD_WORD(flush_daemon), 1);

static ssize_t program_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	struct ubd_binding *bind;
	ssize_t n;

	rcu_read_lock();
	bind = rcu_dereference(ubd_of(dev)->bound);
	n = sysfs_emit(buf, "%s\n", bind ? bind->prog->name : "");
	rcu_read_unlock();
	return n;
}
static DEVICE_ATTR_RO(program);

static ssize_t program_state_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	const char *state = "none";
	struct ubd_binding *bind;

	rcu_read_lock();
	bind = rcu_dereference(ubd_of(dev)->bound);
	if (bind)
		state = !rcu_access_pointer(bind->prog->ops) ? "ejected" :
			READ_ONCE(ubd_of(dev)->bind_parked) ? "parked" : "live";
	rcu_read_unlock();
	return sysfs_emit(buf, "%s\n", state);
}
static DEVICE_ATTR_RO(program_state);

static ssize_t cookie_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct ubd_binding *bind;
	u64 cookie;

	rcu_read_lock();
	bind = rcu_dereference(ubd_of(dev)->bound);
	cookie = bind ? bind->cookie : 0;
	rcu_read_unlock();
	return sysfs_emit(buf, "%llu\n", cookie);
}
static DEVICE_ATTR_RO(cookie);

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	struct ubd_device *ub = ubd_of(dev);

	return sysfs_emit(buf, "%s\n",
			  READ_ONCE(ub->stopping) ? "stopping" :
			  READ_ONCE(ub->info.state) == UBLK_S_DEV_QUIESCED ?
				"quiesced" :
			  READ_ONCE(ub->fail_declined) ? "fail_io" : "live");
}
static DEVICE_ATTR_RO(state);

static ssize_t daemon_pid_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(ubd_of(dev)->info.ublksrv_pid));
}
static DEVICE_ATTR_RO(daemon_pid);

static ssize_t owner_uid_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	return sysfs_emit(buf, "%u\n", ubd_of(dev)->info.owner_uid);
}
static DEVICE_ATTR_RO(owner_uid);

static ssize_t owner_gid_show(struct device *dev, struct device_attribute *attr,
			      char *buf)
{
	return sysfs_emit(buf, "%u\n", ubd_of(dev)->info.owner_gid);
}
static DEVICE_ATTR_RO(owner_gid);

static ssize_t nr_slots_show(struct device *dev, struct device_attribute *attr,
			     char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(ubd_of(dev)->nr_slots));
}
static DEVICE_ATTR_RO(nr_slots);

static struct attribute *ubd_attrs[] = {
	UBD_OP_ATTRS(read),
	UBD_OP_ATTRS(write),
	UBD_OP_ATTRS(discard),
	UBD_OP_ATTRS(write_zeroes),
	&ubd_ctr_flush_mapped.attr.attr,
	&ubd_ctr_flush_declined.attr.attr,
	&ubd_ctr_mapped.attr.attr,
	&ubd_ctr_zero.attr.attr,
	&ubd_ctr_declined.attr.attr,
	&ubd_ctr_forwarded.attr.attr,
	&ubd_ctr_forwarded_sectors.attr.attr,
	&ubd_ctr_error.attr.attr,
	&ubd_ctr_bad.attr.attr,
	&ubd_ctr_splits.attr.attr,
	&ubd_ctr_eagain.attr.attr,
	&ubd_ctr_file_inline.attr.attr,
	&ubd_ctr_file_worker.attr.attr,
	&ubd_ctr_inline_eagain.attr.attr,
	&ubd_ctr_tracked.attr.attr,
	&ubd_ctr_fences.attr.attr,
	&ubd_ctr_flush_slots.attr.attr,
	&ubd_ctr_flush_daemon.attr.attr,
	&dev_attr_program.attr,
	&dev_attr_program_state.attr,
	&dev_attr_cookie.attr,
	&dev_attr_state.attr,
	&dev_attr_daemon_pid.attr,
	&dev_attr_nr_slots.attr,
	&dev_attr_owner_uid.attr,
	&dev_attr_owner_gid.attr,
	NULL
};

static const struct attribute_group ubd_group = {
	.name	= "ubd",
	.attrs	= ubd_attrs,
};

const struct attribute_group *ubd_groups[] = { &ubd_group, NULL };
