// SPDX-License-Identifier: GPL-2.0
/*
 * A device whose server goes, and the next one that takes its place.
 *
 *		server gone		    START_USER_RECOVERY, FETCH,
 *	LIVE -----------------> QUIESCED -------------------------------> LIVE
 *		(or FAIL_IO)	 declined I/O waits, or fails	END_USER_RECOVERY
 *
 * While nobody serves, the hidden queue is quiesced: what was declined waits
 * there, and what a dead server gave back on its requeue list. Both go on at
 * END_USER_RECOVERY, and fail at STOP. Mapped I/O knows nothing of all this,
 * unless the policy is to stop it.
 */
#include <linux/jiffies.h>

#include "ubd.h"
#include "channel.h"

/* The hidden queue runs again; ub->mutex is held, the disks exist. */
void ubd_unquiesce(struct ubd_device *ub)
{
	if (ub->quiesced) {
		ub->quiesced = false;
		blk_mq_unquiesce_queue(ub->hidden->queue);
	}
	/* Pairs with ubd_park(): what it adds is seen here, or fails there. */
	smp_mb();
	blk_mq_kick_requeue_list(ub->hidden->queue);
	wake_up(&ub->wait);
}

static void ubd_quiesce_queue(struct ubd_device *ub)
{
	if (ub->quiesced)
		return;
	ub->quiesced = true;
	blk_mq_quiesce_queue(ub->hidden->queue);
}

/* The char device is closed; ub->mutex is held, the disks exist. */
void ubd_server_lost(struct ubd_device *ub)
{
	/*
	 * Whatever the policy: a batch's tags are ready until their queue is
	 * reset, and what they got in between nobody would ever look at. STOP
	 * has told them all to refuse.
	 */
	if (!ub->stopping)
		ubd_quiesce_queue(ub);
	if (ubd_waits_for_server(ub)) {
		ub->info.state = UBLK_S_DEV_QUIESCED;
	} else {
		WRITE_ONCE(ub->fail_declined, true);
		ub->info.state = UBLK_S_DEV_FAIL_IO;
	}
	ub->info.ublksrv_pid = -1;
	ub->recovering = false;
	if (ub->stop_mapped)
		ubd_bind_park(ub, true);
}

/* Somebody served it, nobody does, and it was added to survive that. */
static int ubd_check_recoverable(struct ubd_device *ub)
{
	if (!(ub->info.flags & UBLK_F_USER_RECOVERY))
		return -EINVAL;
	if (!ub->front || ub->stopping ||
	    (ub->info.state != UBLK_S_DEV_QUIESCED &&
	     ub->info.state != UBLK_S_DEV_FAIL_IO))
		return -EBUSY;
	return 0;
}

int ubd_start_recovery(struct ubd_device *ub)
{
	int ret;

	mutex_lock(&ub->mutex);
	ret = ubd_check_recoverable(ub);
	if (!ret && test_bit(UBD_ST_OPEN, &ub->state))
		ret = -EBUSY;
	if (!ret)
		ub->recovering = true;
	mutex_unlock(&ub->mutex);
	return ret;
}

/* Waits until every tag was FETCHed, or that has become impossible. */
int ubd_end_recovery(struct ubd_device *ub, int pid)
{
	int ret;

	if (pid <= 0 || !(ub->info.flags & UBLK_F_USER_RECOVERY))
		return -EINVAL;
	if (wait_event_interruptible(ub->wait, completion_done(&ub->ready) ||
				     !READ_ONCE(ub->recovering)))
		return -EINTR;

	mutex_lock(&ub->mutex);
	ret = ubd_check_recoverable(ub);
	if (!ret && !(ub->recovering && ubd_is_served(ub)))
		ret = -EBUSY;
	if (!ret) {
		ub->recovering = false;
		ub->info.ublksrv_pid = pid;
		ub->info.state = UBLK_S_DEV_LIVE;
		ubd_bind_park(ub, false);
		WRITE_ONCE(ub->fail_declined, false);
		ubd_unquiesce(ub);
	}
	mutex_unlock(&ub->mutex);
	return ret;
}

static long ubd_wait_idle(struct ubd_device *ub, u64 timeout_ms)
{
	long timeout = MAX_SCHEDULE_TIMEOUT;

	if (timeout_ms)
		timeout = msecs_to_jiffies(min_t(u64, timeout_ms, INT_MAX));
	return wait_event_killable_timeout(ub->wait,
			!ubd_server_is_busy(ub) || !READ_ONCE(ub->quiesced),
			timeout);
}

/*
 * The server finishes what it has and then gets its commands back, upon which
 * it is expected to close. If it does not finish in time, all goes on.
 */
int ubd_quiesce(struct ubd_device *ub, u64 timeout_ms)
{
	struct io_uring_cmd *idle = NULL;
	int ret = 0;
	long left;

	if (!(ub->info.flags & UBLK_F_USER_RECOVERY))
		return -EOPNOTSUPP;
	mutex_lock(&ub->mutex);
	if (!ub->front || ub->stopping || ub->quiesced ||
	    ub->info.state != UBLK_S_DEV_LIVE)
		ret = -EBUSY;
	if (!ret) {
		WRITE_ONCE(ub->draining, true);
		ubd_quiesce_queue(ub);
	}
	mutex_unlock(&ub->mutex);
	if (ret)
		return ret;

	left = ubd_wait_idle(ub, timeout_ms);

	mutex_lock(&ub->mutex);
	if (!ub->stopping)
		WRITE_ONCE(ub->draining, false);
	if (ub->stopping || !ub->front) {
		ret = -ENODEV;
	} else if (ub->info.state != UBLK_S_DEV_LIVE) {
		ret = 0;	/* it went by itself */
	} else if (!ub->quiesced) {
		ret = -EBUSY;	/* it went, and another came */
	} else if (left <= 0) {
		ret = left ? -EINTR : -EBUSY;
		ubd_unquiesce(ub);
	} else {
		/* No request is with it, and until the next open none comes. */
		WRITE_ONCE(ub->aborting, true);
		idle = ubd_take_commands(ub);
	}
	mutex_unlock(&ub->mutex);
	ubd_end_commands(idle);
	return ret;
}

int ubd_set_policy(struct ubd_device *ub, u32 flags)
{
	if (flags & ~UBD_POLICY_STOP_MAPPED)
		return -EINVAL;
	mutex_lock(&ub->mutex);
	ub->stop_mapped = flags & UBD_POLICY_STOP_MAPPED;
	ubd_bind_park(ub, ub->stop_mapped && ub->front &&
			  ub->info.state != UBLK_S_DEV_LIVE);
	mutex_unlock(&ub->mutex);
	return 0;
}
