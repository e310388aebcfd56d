// SPDX-License-Identifier: GPL-2.0
/* Memory for bios on their way to files: a few per CPU, a mempool behind them. */
#include <linux/slab.h>

#include "file.h"

/* Bios that get to a file when there is no memory at all. */
#define UBD_FIO_RESERVE	16

/* Free ones kept per CPU: as many as a busy queue has in flight. */
#define UBD_FIO_CACHED	16

static struct kmem_cache *ubd_fio_slab;

/* NULL only where @gfp must not wait. */
struct ubd_fio *ubd_fio_get(struct ubd_device *ub, gfp_t gfp)
{
	struct ubd_fio_cache *cache;
	struct ubd_fio *fio;
	unsigned long flags;

	local_irq_save(flags);
	cache = this_cpu_ptr(ub->fio_cache);
	fio = cache->free;
	if (likely(fio)) {
		cache->free = fio->next;
		cache->nr--;
	}
	local_irq_restore(flags);
	return fio ?: mempool_alloc(&ub->fio_pool, gfp);
}

/* Any context. */
void ubd_fio_free(struct ubd_device *ub, struct ubd_fio *fio)
{
	struct ubd_fio_cache *cache;
	unsigned long flags;

	local_irq_save(flags);
	cache = this_cpu_ptr(ub->fio_cache);
	/* The pool's reserve comes first: others may be waiting for it. */
	if (cache->nr < UBD_FIO_CACHED && mempool_is_saturated(&ub->fio_pool)) {
		fio->next = cache->free;
		cache->free = fio;
		cache->nr++;
		fio = NULL;
	}
	local_irq_restore(flags);
	if (fio)
		mempool_free(fio, &ub->fio_pool);
}

int ubd_fio_init_device(struct ubd_device *ub)
{
	ub->fio_cache = alloc_percpu(struct ubd_fio_cache);
	if (!ub->fio_cache)
		return -ENOMEM;
	return mempool_init_slab_pool(&ub->fio_pool, UBD_FIO_RESERVE,
				      ubd_fio_slab);
}

/* Also after ubd_fio_init_device() failed, or was never called. */
void ubd_fio_exit_device(struct ubd_device *ub)
{
	struct ubd_fio_cache *cache;
	struct ubd_fio *fio;
	int cpu;

	for_each_possible_cpu(cpu) {
		if (!ub->fio_cache)
			break;
		cache = per_cpu_ptr(ub->fio_cache, cpu);
		while ((fio = cache->free)) {
			cache->free = fio->next;
			mempool_free(fio, &ub->fio_pool);
		}
	}
	free_percpu(ub->fio_cache);
	mempool_exit(&ub->fio_pool);
}

int ubd_fio_init(void)
{
	ubd_fio_slab = KMEM_CACHE(ubd_fio, 0);
	return ubd_fio_slab ? 0 : -ENOMEM;
}

void ubd_fio_exit(void)
{
	kmem_cache_destroy(ubd_fio_slab);
}
