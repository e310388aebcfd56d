// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server in this process, with no more manners than a test wants it to have.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use io_uring::{opcode, squeue, types, IoUring};
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::{ubd, ublk, Plain};

use crate::support::io::Aligned;
use crate::support::{seconds, Ubd};

/// Bytes of the largest request, and of a tag's buffer.
pub const IO_BYTES: usize = 64 << 10;
/// Sectors of the device.
pub const SECTORS: u64 = 32 << 11;

/// Parameters of a plain device of [`SECTORS`].
pub fn params() -> ublk::Params {
    let mut params = ublk::Params::unset();
    params.types = ublk::PARAM_TYPE_BASIC;
    params.basic.logical_bs_shift = 9;
    params.basic.physical_bs_shift = 12;
    params.basic.io_min_shift = 9;
    params.basic.io_opt_shift = 9;
    params.basic.max_sectors = (IO_BYTES >> 9) as u32;
    params.basic.dev_sectors = SECTORS;
    params
}

/// ADD and SET_PARAMS; the guard deletes it.
pub fn add(control: &Control, id: Option<u32>, queues: u16, depth: u16) -> Result<Ubd> {
    let info = control.add(&AddRequest {
        id,
        queues,
        depth,
        max_io_bytes: IO_BYTES as u32,
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(info.dev_id);
    ensure!(
        info.nr_hw_queues == queues,
        "asked for {queues} queues, got {}",
        info.nr_hw_queues
    );
    control.set_params(info.dev_id, &params())?;
    Ok(device)
}

/// The same with one queue, and `flags`. Who opens it does not wait for a partition scan.
pub fn add_unscanned(control: &Control, flags: u64, depth: u16) -> Result<Ubd> {
    let info = control.add(&AddRequest {
        queues: 1,
        depth,
        max_io_bytes: IO_BYTES as u32,
        flags: flags | ublk::F_NO_AUTO_PART_SCAN,
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(info.dev_id);
    control.set_params(info.dev_id, &params())?;
    Ok(device)
}

/// Deletes a device without the tool, which takes its time to start.
pub fn delete(control: &Control, device: Ubd) -> Result<()> {
    control.del(device.id())?;
    std::mem::forget(device);
    Ok(())
}

/// Somebody else who fills these blocks of 4 KiB of a disk, which stays open: udev reads a disk that
/// a writer has closed, and meanwhile nobody can close it, if a test serves it and does something else.
pub fn spawn_writer(
    disk: &File,
    mut blocks: Range<u64>,
    byte: u8,
) -> Result<JoinHandle<io::Result<()>>> {
    let disk = disk.try_clone()?;
    let data = Aligned::copy_of(&[byte; 4096], 0);
    Ok(std::thread::spawn(move || {
        blocks.try_for_each(|block| disk.write_all_at(&data, block << 12))
    }))
}

/// Opens the character node, which appears a moment after ADD.
pub fn open_node(id: u32) -> Result<File> {
    let path = format!("/dev/ubdc{id}");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.with_context(|| format!("failed to open `{path}`"))
}

/// Maps `len` bytes of a character node at `offset`.
pub fn map(node: &File, prot: i32, len: usize, offset: u64) -> io::Result<*mut libc::c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let ptr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            prot,
            libc::MAP_SHARED,
            node.as_raw_fd(),
            offset as libc::off_t,
        )
    };
    if ptr == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(ptr)
    }
}

pub fn descs_len(depth: u16) -> usize {
    (usize::from(depth) * size_of::<ublk::IoDesc>()).next_multiple_of(4096)
}

pub fn descs_offset(q_id: u16) -> u64 {
    u64::from(q_id) * u64::from(ublk::MAX_QUEUE_DEPTH) * size_of::<ublk::IoDesc>() as u64
}

/// An I/O command; `addr` is that of the entry, not of the command.
pub fn command(fd: i32, op: u32, cmd: &ublk::IoCmd, addr: Option<u64>) -> squeue::Entry {
    let mut area = [0u8; 16];
    area.copy_from_slice(cmd.as_bytes());
    opcode::UringCmd16::new(types::Fd(fd), op)
        .cmd(area)
        .addr(addr)
        .build()
}

/// How a ring has its completions delivered.
#[derive(Debug, Clone, Copy)]
pub enum Ring {
    /// To its thread, whenever that leaves the kernel.
    Plain,
    /// To its thread, when that asks for them.
    Deferred,
}

/// A ring on a character node. It belongs to the thread that uses it first.
pub struct Queue {
    pub node: File,
    ring: IoUring,
    q_id: u16,
    /// The buffers of the tags.
    buffers: Vec<Aligned>,
}

impl Queue {
    pub fn new(node: File, q_id: u16, depth: u16) -> Result<Queue> {
        Queue::with(Ring::Plain, node, q_id, depth)
    }

    pub fn with(ring: Ring, node: File, q_id: u16, depth: u16) -> Result<Queue> {
        let mut builder = IoUring::builder();
        if matches!(ring, Ring::Deferred) {
            builder.setup_single_issuer().setup_defer_taskrun();
        }
        let ring = builder.build(u32::from(depth).max(8) * 2);
        let ring = ring.context("failed to make a ring")?;
        Ok(Queue {
            node,
            ring,
            q_id,
            buffers: (0..depth).map(|_| Aligned::new(IO_BYTES)).collect(),
        })
    }

    /// Submits any command.
    pub fn submit(&mut self, op: u32, cmd: ublk::IoCmd, flags: squeue::Flags) -> Result<()> {
        let sqe = command(self.node.as_raw_fd(), op, &cmd, None);
        // SAFETY: the argument is in the SQE; the buffers live as long as the ring, which is
        // dropped first, and are touched by I/O only.
        unsafe { self.push(&sqe.flags(flags).user_data(cmd.tag.into())) }
    }

    /// FORWARD, of the first `sectors` sectors, or all; `install` is an address, or 0.
    pub fn forward(
        &mut self,
        tag: u16,
        (slot, sector): (u32, u64),
        sectors: u32,
        install: u64,
    ) -> Result<()> {
        let cmd = ubd::Forward {
            q_id: self.q_id,
            tag,
            slot,
            sector,
        };
        let mut area = [0u8; 16];
        area.copy_from_slice(cmd.as_bytes());
        let fd = types::Fd(self.node.as_raw_fd());
        let mut sqe = opcode::UringCmd16::new(fd, ubd::U_IO_FORWARD)
            .cmd(area)
            .addr(Some(install))
            .build()
            .user_data(tag.into());
        // SAFETY: an entry is the kernel's `struct io_uring_sqe`, whose byte 24 begins `len`.
        unsafe { (&raw mut sqe).cast::<u32>().add(6).write(sectors) };
        // SAFETY: as in `submit`; an install's address is the test's to keep.
        unsafe { self.push(&sqe) }
    }

    /// Submits anything.
    ///
    /// # Safety
    /// Whatever the entry points to lives as long as the ring.
    pub unsafe fn push(&mut self, sqe: &squeue::Entry) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.ring.submission().push(sqe) }.context("the ring is full")?;
        self.ring.submit().context("failed to submit")?;
        Ok(())
    }

    /// Makes room for as many registered buffers.
    pub fn make_table(&self, buffers: u32) -> Result<()> {
        let made = self.ring.submitter().register_buffers_sparse(buffers);
        made.context("failed to make a table of buffers")
    }

    pub fn cmd(&self, tag: u16, result: i32) -> ublk::IoCmd {
        let addr = self
            .buffers
            .get(usize::from(tag))
            .map_or(0x1000, |buffer| buffer.as_ptr() as u64);
        ublk::IoCmd {
            q_id: self.q_id,
            tag,
            result,
            addr,
        }
    }

    /// A tag's buffer.
    pub fn buffer(&mut self, tag: u16) -> &mut [u8] {
        &mut self.buffers[usize::from(tag)]
    }

    pub fn fetch(&mut self, tag: u16) -> Result<()> {
        self.submit(
            ublk::U_IO_FETCH_REQ,
            self.cmd(tag, 0),
            squeue::Flags::empty(),
        )
    }

    /// The next completion, tag and result; none within `limit`.
    pub fn next(&mut self, limit: Duration) -> Result<Option<(u16, i32)>> {
        let next = self.next_of(limit)?;
        Ok(next.map(|(user_data, result)| (user_data as u16, result)))
    }

    /// The same with the whole of its user data.
    pub fn next_of(&mut self, limit: Duration) -> Result<Option<(u64, i32)>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(cqe) = self.ring.completion().next() {
                return Ok(Some((cqe.user_data(), cqe.result())));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = types::Timespec::from(left);
            match self
                .ring
                .submitter()
                .submit_with_args(1, &types::SubmitArgs::new().timespec(&left))
            {
                Err(err) if !matches!(err.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {
                    bail!(err)
                }
                _ => {}
            }
        }
    }

    /// Runs a command that must end at once; gives its result.
    pub fn now(&mut self, op: u32, cmd: ublk::IoCmd) -> Result<i32> {
        self.submit(op, cmd, squeue::Flags::empty())?;
        let done = self.next(seconds(10))?;
        Ok(done.context("the command did not end")?.1)
    }
}

/// How a [`Server`] treats what it takes.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Answers; else keeps what it has taken.
    pub answers: bool,
    /// Submits with IOSQE_ASYNC, as if every command might block.
    pub asynchronous: bool,
}

pub const GOOD: Manners = Manners {
    answers: true,
    asynchronous: false,
};

/// A thread that serves queue 0 of a device: zeroes for reads, oblivion for writes.
pub struct Server {
    thread: Option<JoinHandle<Result<u64>>>,
    quit: Arc<AtomicBool>,
}

impl Server {
    /// Starts serving over `node`; START comes after this.
    pub fn spawn(node: File, depth: u16, manners: Manners) -> Server {
        let quit = Arc::new(AtomicBool::new(false));
        let seen = quit.clone();
        let thread = std::thread::spawn(move || serve(node, depth, manners, &seen));
        Server {
            thread: Some(thread),
            quit,
        }
    }

    /// Ends the thread, whatever it holds; gives the number of requests that it took.
    pub fn quit(mut self) -> Result<u64> {
        self.quit.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(&mut self) -> Result<u64> {
        let thread = self.thread.take().context("joined already")?;
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the server panicked"))?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        if self.thread.is_some() {
            let _ = self.join();
        }
    }
}

fn serve(node: File, depth: u16, manners: Manners, quit: &AtomicBool) -> Result<u64> {
    let descs = map(&node, libc::PROT_READ, descs_len(depth), 0)
        .context("failed to map the descriptors")?;
    let flags = if manners.asynchronous {
        squeue::Flags::ASYNC
    } else {
        squeue::Flags::empty()
    };
    let mut queue = Queue::new(node, 0, depth)?;
    for tag in 0..depth {
        queue.submit(ublk::U_IO_FETCH_REQ, queue.cmd(tag, 0), flags)?;
    }
    let (mut commands, mut taken) = (depth, 0);
    while commands > 0 && !quit.load(Ordering::Relaxed) {
        let Some((tag, result)) = queue.next(Duration::from_millis(50))? else {
            continue;
        };
        commands -= 1;
        if result == ublk::IO_RES_ABORT {
            continue;
        }
        ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
        taken += 1;
        if manners.answers {
            // SAFETY: the mapping holds `depth` descriptors, this one is ours by the completion.
            let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
            ensure!(
                desc.op_flags & 0xff > ublk::IO_OP_WRITE
                    || desc.nr_sectors as usize <= IO_BYTES >> 9,
                "a request has {} sectors, more than fit into the buffer",
                desc.nr_sectors
            );
            let cmd = queue.cmd(tag, (desc.nr_sectors << 9) as i32);
            queue.submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, cmd, flags)?;
            commands += 1;
        }
    }
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(depth)) };
    Ok(taken)
}
