// SPDX-License-Identifier: GPL-2.0
/* ubd: a block device mapped by a BPF program, backed by kernel I/O. */
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "ubd.h"

struct class *ubd_class;
dev_t ubd_chr_devt;
atomic_t ubd_nr_devices = ATOMIC_INIT(0);	/* freed by RCU callbacks */
DECLARE_WAIT_QUEUE_HEAD(ubd_exit_wait);

static struct miscdevice ubd_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "ubd-control",
	.fops	= &ubd_ctl_fops,
	.mode	= 0600,
};

static int __init ubd_init(void)
{
	int ret;

	BUILD_BUG_ON(sizeof(struct ubd_bpf_io) != 56);
	BUILD_BUG_ON(!is_power_of_2(UBD_MAX_SLOTS));
	/* One is read through the other. */
	BUILD_BUG_ON(sizeof(struct ubd_forward) != sizeof(struct ublksrv_io_cmd));
	BUILD_BUG_ON(offsetof(struct ubd_slot, touched) > SMP_CACHE_BYTES);

	ret = ubd_fio_init();
	if (ret)
		return ret;
	ret = ubd_flush_init();
	if (ret)
		goto err_file;
	ret = alloc_chrdev_region(&ubd_chr_devt, 0, UBD_MAX_DEVICES,
				  "ubd-char");
	if (ret)
		goto err_flush;
	ubd_class = class_create("ubd-char");
	if (IS_ERR(ubd_class)) {
		ret = PTR_ERR(ubd_class);
		goto err_chrdev;
	}
	ret = ubd_bpf_init();
	if (ret)
		goto err_class;
	/* Last: from here on there can be devices. */
	ret = misc_register(&ubd_misc);
	if (ret)
		goto err_class;
	return 0;

err_class:
	class_destroy(ubd_class);
err_chrdev:
	unregister_chrdev_region(ubd_chr_devt, UBD_MAX_DEVICES);
err_flush:
	ubd_flush_exit();
err_file:
	ubd_fio_exit();
	return ret;
}

static void __exit ubd_exit(void)
{
	misc_deregister(&ubd_misc);
	ubd_delete_all();
	wait_event(ubd_exit_wait, !atomic_read(&ubd_nr_devices));
	/* The last callback, and programs that are just leaving map(). */
	rcu_barrier();
	synchronize_rcu();
	class_destroy(ubd_class);
	unregister_chrdev_region(ubd_chr_devt, UBD_MAX_DEVICES);
	ubd_flush_exit();
	ubd_fio_exit();
}

module_init(ubd_init);
module_exit(ubd_exit);

MODULE_DESCRIPTION("Block device mapped by a BPF program");
MODULE_VERSION(UBD_VERSION);
MODULE_LICENSE("GPL");
