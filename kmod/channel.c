// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/ubdcN: ublk's protocol. The server maps the descriptors, FETCHes every
 * tag of a queue from one task and one ring, and answers with COMMIT_AND_FETCH.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "ubd.h"
#include "channel.h"

static int ubd_ch_open(struct inode *inode, struct file *file)
{
	struct ubd_device *ub = container_of(inode->i_cdev, struct ubd_device,
					     cdev);
	int ret = 0;

	mutex_lock(&ub->mutex);
	if (test_bit(UBD_ST_DELETED, &ub->state)) {
		ret = -ENODEV;
	} else if (test_and_set_bit(UBD_ST_OPEN, &ub->state)) {
		ret = -EBUSY;
	} else {
		ub->aborting = ub->stopping;
		ub->server = get_task_struct(current->group_leader);
		ub->server_mm = NULL;
		file->private_data = ub;
	}
	mutex_unlock(&ub->mutex);
	return ret;
}

/*
 * The server is gone, and with it every command, each of which held this file.
 * What it had taken and not answered ends or waits now; the front disk stays.
 */
static int ubd_ch_release(struct inode *inode, struct file *file)
{
	struct ubd_device *ub = file->private_data;
	unsigned int i;

	mutex_lock(&ub->mutex);
	if (ub->front)
		ubd_server_lost(ub);
	for (i = 0; i < ub->info.nr_hw_queues; i++) {
		ubd_end_server_requests(ub->queues[i], NULL, NULL);
		ubd_queue_reset(ub->queues[i]);
	}
	/* From here on every request finds that there is no server. */
	if (ub->front && ub->quiesced && !ubd_waits_for_server(ub))
		ubd_unquiesce(ub);
	ub->nr_queues_ready = 0;
	/* A START that waits must see a DEL. */
	if (!test_bit(UBD_ST_DELETED, &ub->state))
		reinit_completion(&ub->ready);
	put_task_struct(ub->server);
	ub->server = NULL;
	clear_bit(UBD_ST_OPEN, &ub->state);
	mutex_unlock(&ub->mutex);
	wake_up(&ub->wait);
	return 0;
}

/* The descriptors, read-only, for one address space. */
static int ubd_ch_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ubd_device *ub = file->private_data;
	unsigned long stride = ubd_descs_size(ub, UBLK_MAX_QUEUE_DEPTH);
	unsigned long off = vma->vm_pgoff << PAGE_SHIFT;
	unsigned long size = vma->vm_end - vma->vm_start;
	unsigned long nr = off / stride;
	struct mm_struct *mm;

	if (vma->vm_flags & VM_WRITE)
		return -EPERM;
	if (off % stride || nr >= ub->info.nr_hw_queues ||
	    size != ubd_descs_size(ub, ub->info.queue_depth))
		return -EINVAL;

	mm = cmpxchg(&ub->server_mm, NULL, current->mm);
	if (mm && mm != current->mm)
		return -EINVAL;

	vm_flags_clear(vma, VM_MAYWRITE);
	return remap_pfn_range(vma, vma->vm_start,
			       virt_to_phys(ub->queues[nr]->descs) >> PAGE_SHIFT,
			       size, vma->vm_page_prot);
}

struct io_uring_cmd *ubd_take_command(struct ubd_io *io,
				      struct io_uring_cmd *cmd)
{
	spin_lock(&io->lock);
	if (io->state == UBD_IO_READY && (!cmd || io->cmd == cmd)) {
		cmd = io->cmd;
		io->cmd = NULL;
		io->state = UBD_IO_NONE;
	} else {
		/* Busy: whoever ends the request ends the command. */
		cmd = NULL;
	}
	spin_unlock(&io->lock);
	return cmd;
}

/*
 * Give @cmd to the tag, which no request can find before it is READY. The
 * command is made cancelable first: once READY, it may end at any time.
 */
int ubd_io_hold(struct ubd_queue *q, struct ubd_io *io,
		struct io_uring_cmd *cmd, u64 addr, unsigned int issue_flags)
{
	bool abort;

	ubd_cmd_pdu(cmd)->q = q;
	ubd_cmd_pdu(cmd)->io = io;
	io_uring_cmd_mark_cancelable(cmd, issue_flags);

	spin_lock(&io->lock);
	io->req = NULL;
	abort = q->ub->aborting || q->dead;
	if (abort) {
		io->state = UBD_IO_NONE;
	} else {
		io->addr = addr;
		io->cmd = cmd;
		io->state = UBD_IO_READY;
	}
	spin_unlock(&io->lock);
	if (abort)
		ubd_cmd_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
	return -EIOCBQUEUED;
}

/*
 * A tag has one task and one ring, those of its FETCH: the work that delivers
 * runs in the one and ends commands under the lock of the other.
 */
static bool ubd_may_serve(struct ubd_io *io, struct io_uring_cmd *cmd)
{
	return READ_ONCE(io->task) == current &&
	       READ_ONCE(io->ring) == ubd_cmd_ring(cmd);
}

/* Both START and END_USER_RECOVERY may be waiting for that. */
void ubd_all_ready(struct ubd_device *ub)
{
	complete_all(&ub->ready);
	wake_up(&ub->wait);
}

static bool ubd_fetch_addr_ok(struct ubd_device *ub, u64 addr)
{
	if (!ubd_maps_data(ub))
		return !addr || ubd_auto_registers(ub);
	return addr || ub->info.flags & UBLK_F_NEED_GET_DATA;
}

/* A read brings its data from there. */
static bool ubd_commit_addr_ok(struct ubd_device *ub, struct request *rq,
			       u64 addr)
{
	return ubd_fetch_addr_ok(ub, addr) &&
	       (addr || req_op(rq) != REQ_OP_READ || !ubd_maps_data(ub));
}

/*
 * Under ub->mutex, so that there is a first of a queue: tags that are served by
 * the same task and ring are delivered together.
 */
static int ubd_fetch(struct ubd_queue *q, struct ubd_io *io,
		     struct io_uring_cmd *cmd, u64 addr,
		     unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	int ret;

	if (!ubd_fetch_addr_ok(ub, addr))
		return -EINVAL;
	mutex_lock(&ub->mutex);
	if (ub->aborting || q->dead)
		ret = UBLK_IO_RES_ABORT;
	else if (io->task && !ubd_may_serve(io, cmd))
		ret = -EINVAL;
	else if ((ub->front && !ub->recovering) ||
		 READ_ONCE(io->state) != UBD_IO_NONE)
		ret = -EBUSY;
	else
		ret = 0;
	if (!ret) {
		if (!q->daemon) {
			q->ring = ubd_cmd_ring(cmd);
			q->daemon = current;
		}
		if (!io->task) {
			io->alone = q->daemon != current ||
				    q->ring != ubd_cmd_ring(cmd);
			WRITE_ONCE(io->ring, ubd_cmd_ring(cmd));
			WRITE_ONCE(io->task, get_task_struct(current));
		}
		ret = ubd_io_hold(q, io, cmd, addr, issue_flags);
		if (++q->nr_ready == q->depth &&
		    ++ub->nr_queues_ready == ub->info.nr_hw_queues)
			ubd_all_ready(ub);
	}
	mutex_unlock(&ub->mutex);
	return ret;
}

/* An answer without a request: taken back before, or never given. */
int ubd_not_yours(struct ubd_queue *q)
{
	return READ_ONCE(q->ub->aborting) || READ_ONCE(q->dead) ?
	       UBLK_IO_RES_ABORT : -EINVAL;
}

static int ubd_commit(struct ubd_queue *q, struct ubd_io *io,
		      struct io_uring_cmd *cmd, u64 addr, s32 result,
		      unsigned int issue_flags)
{
	struct ubd_device *ub = q->ub;
	blk_status_t status;
	struct request *rq;
	size_t bytes;
	int ret;

	spin_lock(&io->lock);
	if (io->state != UBD_IO_SERVER) {
		spin_unlock(&io->lock);
		/* STOP has taken the request back and waits for its buffer. */
		if (io->has_buffer)
			ubd_buffer_drop(io, cmd, issue_flags);
		return ubd_not_yours(q);
	}
	if (!ubd_commit_addr_ok(ub, io->req, addr)) {
		spin_unlock(&io->lock);
		return -EINVAL;
	}
	/* Ours until we say otherwise: STOP waits for a copy. */
	io->state = UBD_IO_COPYING;
	rq = io->req;
	spin_unlock(&io->lock);

	bytes = ubd_take_result(rq, addr, result, &status);
	if (io->has_buffer)
		ubd_buffer_drop(io, cmd, issue_flags);
	/* The tag is free for the next request as soon as this one ends. */
	ret = ubd_io_hold(q, io, cmd, addr, issue_flags);
	ubd_tag_returned(ub);
	ubd_commit_request(q, rq, bytes, status);
	return ret;
}

/* NEED_GET_DATA: the server has a buffer now. */
static int ubd_get_data(struct ubd_queue *q, struct ubd_io *io, u64 addr)
{
	struct request *rq;
	bool ok;

	if (!addr)
		return -EINVAL;
	spin_lock(&io->lock);
	if (io->state != UBD_IO_SERVER || !io->needs_data) {
		spin_unlock(&io->lock);
		return ubd_not_yours(q);
	}
	io->state = UBD_IO_COPYING;
	rq = io->req;
	spin_unlock(&io->lock);

	ok = ubd_copy(rq, addr, blk_rq_bytes(rq), true) == blk_rq_bytes(rq);

	/* Who came while we copied comes again. */
	spin_lock(&io->lock);
	io->state = UBD_IO_SERVER;
	if (ok) {
		io->needs_data = false;
		io->addr = addr;
		ubd_fill_desc(q, io, rq);
	}
	spin_unlock(&io->lock);
	ubd_tag_returned(q->ub);
	return ok ? UBLK_IO_RES_OK : -EFAULT;
}

static int ubd_ch_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ubd_device *ub = cmd->file->private_data;
	const struct ublksrv_io_cmd *src = ubd_cmd_arg(cmd);
	/* The submission queue is shared memory: read everything once. */
	u16 q_id = READ_ONCE(src->q_id);
	u16 tag = READ_ONCE(src->tag);
	s32 result = READ_ONCE(src->result);
	u64 addr = READ_ONCE(src->addr);
	struct ubd_queue *q;
	struct ubd_io *io;
	bool may;
	int ret;

	if (cmd->cmd_op == UBLK_U_IO_UNREGISTER_IO_BUF)
		return ubd_buffer_unregister(ub, cmd, addr, issue_flags);
	if (q_id >= ub->info.nr_hw_queues)
		return -EINVAL;
	q = ub->queues[array_index_nospec(q_id, ub->info.nr_hw_queues)];
	if (tag >= q->depth)
		return -EINVAL;
	tag = array_index_nospec(tag, q->depth);
	io = &q->ios[tag];
	if (q->batches && cmd->cmd_op != UBLK_U_IO_REGISTER_IO_BUF)
		return -EOPNOTSUPP;
	may = ubd_may_serve(io, cmd);
	if (ubd_auto_registers(ub) && (cmd->cmd_op == UBLK_U_IO_FETCH_REQ ||
	    cmd->cmd_op == UBLK_U_IO_COMMIT_AND_FETCH_REQ)) {
		ret = ubd_auto_addr(cmd, &addr);
		if (ret)
			return ret;
	}

	switch (cmd->cmd_op) {
	case UBLK_U_IO_FETCH_REQ:
		return ubd_fetch(q, io, cmd, addr, issue_flags);
	case UBLK_U_IO_COMMIT_AND_FETCH_REQ:
		return may ? ubd_commit(q, io, cmd, addr, result, issue_flags) :
			     -EINVAL;
	case UBLK_U_IO_NEED_GET_DATA:
		return may ? ubd_get_data(q, io, addr) : -EINVAL;
	case UBLK_U_IO_REGISTER_IO_BUF:
		return ubd_buffer_register(q, tag, cmd, addr, issue_flags);
	case UBD_U_IO_FORWARD:	/* struct ubd_forward: slot and sector */
		return may ? ubd_forward(q, io, cmd, result, addr,
					 issue_flags) : -EINVAL;
	default:
		return -EOPNOTSUPP;
	}
}

static void ubd_ch_cmd_in_task(struct io_uring_cmd *cmd,
			       unsigned int issue_flags)
{
	int ret = UBLK_IO_RES_ABORT;

	/* A task that is gone has its work run by a kernel thread. */
	if (!(current->flags & (PF_KTHREAD | PF_EXITING)))
		ret = ubd_ch_cmd(cmd, issue_flags);
	if (ret != -EIOCBQUEUED)
		ubd_cmd_done(cmd, ret, issue_flags);
}
UBD_CMD_TASK_WORK(ubd_ch_cmd_in_task)

/* Other tasks may live on, and with them the file. */
static void ubd_ch_cancel(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ubd_cmd_pdu *pdu = ubd_cmd_pdu(cmd);

	if (!pdu->io) {
		/* What its task has taken, others may answer. */
		cmd = ubd_batch_take(pdu->q, cmd);
	} else {
		WRITE_ONCE(pdu->q->dead, true);
		if (!READ_ONCE(pdu->io->lost))
			ubd_task_lost(pdu->q, pdu->io->task, pdu->io->ring);
		cmd = ubd_take_command(pdu->io, cmd);
	}
	if (cmd)
		ubd_cmd_done(cmd, UBLK_IO_RES_ABORT, issue_flags);
}

static int ubd_ch_uring_cmd(struct io_uring_cmd *cmd, unsigned int issue_flags)
{
	struct ubd_device *ub = cmd->file->private_data;

	if (unlikely(issue_flags & IO_URING_F_CANCEL)) {
		ubd_ch_cancel(cmd, issue_flags);
		return 0;
	}
	switch (cmd->cmd_op) {
	case UBLK_U_IO_PREP_IO_CMDS:
	case UBLK_U_IO_COMMIT_IO_CMDS:
	case UBLK_U_IO_FETCH_IO_CMDS:
		if (!(ub->info.flags & UBLK_F_BATCH_IO))
			return -EOPNOTSUPP;
		return ubd_batch_cmd(ub, cmd, issue_flags);
	}
	/* From an io-wq thread: back to the task that serves the queue. */
	if (unlikely(issue_flags & IO_URING_F_UNLOCKED)) {
		ubd_cmd_in_task(cmd, ubd_ch_cmd_in_task);
		return -EIOCBQUEUED;
	}
	return ubd_ch_cmd(cmd, issue_flags);
}

/* The server does not let go; works on a stopped one too. */
void ubd_kill_server(struct ubd_device *ub)
{
	bool found = false;
	unsigned int i, tag;

	mutex_lock(&ub->mutex);
	for (i = 0; i < ub->info.nr_hw_queues; i++)
		for (tag = 0; tag < ub->queues[i]->depth; tag++) {
			struct task_struct *task = ub->queues[i]->ios[tag].task;

			if (!task)
				continue;
			send_sig(SIGKILL, task, 1);
			found = true;
		}
	/* Who opened it may have been a manager; the next best. */
	if (!found && ub->server)
		send_sig(SIGKILL, ub->server, 1);
	mutex_unlock(&ub->mutex);
}

const struct file_operations ubd_ch_fops = {
	.owner		= THIS_MODULE,
	.open		= ubd_ch_open,
	.release	= ubd_ch_release,
	.mmap		= ubd_ch_mmap,
	.read_iter	= ubd_ch_read_iter,
	.write_iter	= ubd_ch_write_iter,
	.uring_cmd	= ubd_ch_uring_cmd,
};
