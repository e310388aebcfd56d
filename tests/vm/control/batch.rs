// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that take and answer requests by the dozen: BATCH_IO.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use io_uring::{cqueue, opcode, squeue, types, IoUring};
use ubd_bpf::control::AddRequest;
use ubd_bpf::uapi::ublk;

use super::modes::{Serve, Store, DEPTH};
use super::server::{delete, descs_len, map, open_node, params, Queue, IO_BYTES};
use crate::support::io::Aligned;
use crate::support::{needs_features, seconds, Ubd};

/// `_IOWR('u', nr, struct ublk_batch_io)`.
const fn op(nr: u32) -> u32 {
    3 << 30 | 16 << 16 | 0x75 << 8 | nr
}

const PREP: u32 = op(0x25);
const COMMIT: u32 = op(0x26);
const FETCH: u32 = op(0x27);

const HAS_BUF_ADDR: u16 = 1 << 1;
/// Of `uring_cmd_flags`.
const MULTISHOT: u32 = 1 << 1;

/// The group of provided buffers.
const GROUP: u16 = 7;

/// What a completion is of.
const COMMAND: u64 = 1 << 16;
const FETCHED: u64 = 2 << 16;
const DATA: u64 = 3 << 16;
const PROVIDED: u64 = 4 << 16;

/// `struct ublk_batch_io`.
#[derive(Debug, Clone, Copy)]
struct Head {
    flags: u16,
    nr: u16,
    bytes: u8,
}

/// A command of a queue; `addr` is that of the elements.
fn command(fd: i32, op: u32, head: Head, addr: u64) -> squeue::Entry {
    let mut area = [0; 16];
    area[2..4].copy_from_slice(&head.flags.to_le_bytes());
    area[4..6].copy_from_slice(&head.nr.to_le_bytes());
    area[6] = head.bytes;
    opcode::UringCmd16::new(types::Fd(fd), op)
        .cmd(area)
        .addr(Some(addr))
        .build()
}

/// FETCH; the crate knows nothing of multishot commands.
fn fetch(fd: i32, cmd_flags: u32) -> squeue::Entry {
    let head = Head {
        flags: 0,
        nr: 0,
        bytes: 2,
    };
    let entry = command(fd, FETCH, head, 0)
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(FETCHED);
    // SAFETY: an entry is 64 bytes of integers, laid out as the kernel's io_uring_sqe.
    let mut raw: [u8; 64] = unsafe { std::mem::transmute_copy(&entry) };
    raw[28..32].copy_from_slice(&cmd_flags.to_le_bytes());
    raw[40..42].copy_from_slice(&GROUP.to_le_bytes());
    // SAFETY: as above.
    unsafe { std::mem::transmute_copy(&raw) }
}

/// What all threads of a server share.
struct Shared {
    /// The bytes of the disk.
    file: File,
    /// The tags' buffers; a tag's is its who has the tag's request.
    buffers: Vec<Mutex<Aligned>>,
    auto: bool,
}

impl Shared {
    fn new(auto: bool) -> Result<Arc<Shared>> {
        Ok(Arc::new(Shared {
            file: super::zerocopy::backing()?,
            buffers: (0..DEPTH)
                .map(|_| Mutex::new(Aligned::new(IO_BYTES)))
                .collect(),
            auto,
        }))
    }

    fn addr(&self, tag: u16) -> u64 {
        let buffer = self.buffers[usize::from(tag)].lock().expect("a buffer");
        buffer.as_ptr() as u64
    }

    /// Elements of PREP or COMMIT: tags and answers.
    fn elements(&self, answers: &[(u16, i32)]) -> (Head, Vec<u8>) {
        let mut bytes = Vec::new();
        for &(tag, result) in answers {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&result.to_le_bytes());
            if !self.auto {
                bytes.extend_from_slice(&self.addr(tag).to_le_bytes());
            }
        }
        let head = Head {
            flags: if self.auto { 0 } else { HAS_BUF_ADDR },
            nr: answers.len() as u16,
            bytes: if self.auto { 8 } else { 16 },
        };
        (head, bytes)
    }
}

/// A thread's ring.
struct Batcher {
    ring: IoUring,
    node: File,
    descs: *const ublk::IoDesc,
    /// Where numbers of tags arrive: `buffers` of so many.
    room: Box<[u16]>,
    tags: usize,
    shared: Arc<Shared>,
}

impl Batcher {
    fn new(node: File, shared: Arc<Shared>, buffers: usize, tags: usize) -> Result<Batcher> {
        let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
        let mut batcher = Batcher {
            ring: IoUring::new(64)?,
            node,
            descs: descs.cast_const().cast(),
            room: vec![0; buffers * tags].into(),
            tags,
            shared,
        };
        let submitter = batcher.ring.submitter();
        submitter.register_buffers_sparse(DEPTH.into())?;
        for id in 0..buffers {
            batcher.provide(id as u16)?;
        }
        Ok(batcher)
    }

    fn push(&mut self, sqe: &squeue::Entry) -> Result<()> {
        // SAFETY: the shared part and the room for tags outlive the ring; elements are waited for.
        unsafe { self.ring.submission().push(sqe) }.context("the ring is full")?;
        self.ring.submit()?;
        Ok(())
    }

    fn next(&mut self, limit: Duration) -> Result<Option<cqueue::Entry>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(cqe) = self.ring.completion().next() {
                return Ok(Some(cqe));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let left = types::Timespec::from(left);
            let args = types::SubmitArgs::new().timespec(&left);
            match self.ring.submitter().submit_with_args(1, &args) {
                Err(err) if !matches!(err.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {
                    bail!(err)
                }
                _ => {}
            }
        }
    }

    fn provide(&mut self, id: u16) -> Result<()> {
        let at = self.room[usize::from(id) * self.tags..].as_mut_ptr();
        let bytes = (self.tags * 2) as i32;
        let sqe = opcode::ProvideBuffers::new(at.cast(), bytes, 1, GROUP, id)
            .build()
            .user_data(PROVIDED);
        self.push(&sqe)
    }

    fn fetch(&mut self) -> Result<()> {
        self.push(&fetch(self.node.as_raw_fd(), MULTISHOT))
    }

    /// Runs a command on elements; what else completes meanwhile is put off.
    fn run(
        &mut self,
        op: u32,
        head: Head,
        elements: &[u8],
        later: &mut Vec<cqueue::Entry>,
    ) -> Result<i32> {
        let sqe = command(self.node.as_raw_fd(), op, head, elements.as_ptr() as u64);
        self.push(&sqe.user_data(COMMAND))?;
        loop {
            let cqe = self.next(seconds(20))?.context("a command does not end")?;
            if cqe.user_data() == COMMAND {
                return Ok(cqe.result());
            }
            later.push(cqe);
        }
    }

    fn answer(&mut self, answers: &[(u16, i32)], later: &mut Vec<cqueue::Entry>) -> Result<()> {
        let (head, elements) = self.shared.elements(answers);
        let done = self.run(COMMIT, head, &elements, later)?;
        ensure!(
            done == elements.len() as i32 || done == ublk::IO_RES_ABORT,
            "COMMIT of {} bytes got {done}",
            elements.len()
        );
        Ok(())
    }

    fn desc(&self, tag: u16) -> ublk::IoDesc {
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours: we were given the tag.
        unsafe { self.descs.add(tag.into()).read_volatile() }
    }

    /// Does a request's I/O; the answer, if it is there at once.
    fn serve(&mut self, tag: u16) -> Result<Option<i32>> {
        use std::os::unix::fs::FileExt;
        let desc = self.desc(tag);
        let (op, len, at) = (
            desc.op_flags & 0xff,
            desc.nr_sectors << 9,
            desc.start_sector << 9,
        );
        if !matches!(op, ublk::IO_OP_READ | ublk::IO_OP_WRITE) {
            return Ok(Some(0));
        }
        if !self.shared.auto {
            let mut buffer = self.shared.buffers[usize::from(tag)]
                .lock()
                .expect("a buffer");
            let data = &mut buffer[..len as usize];
            match op {
                ublk::IO_OP_READ => self.shared.file.read_exact_at(data, at)?,
                _ => self.shared.file.write_all_at(data, at)?,
            }
            return Ok(Some(len as i32));
        }
        let (fd, begin) = (
            types::Fd(self.shared.file.as_raw_fd()),
            std::ptr::null_mut(),
        );
        let sqe = match op {
            ublk::IO_OP_READ => opcode::ReadFixed::new(fd, begin, len, tag)
                .offset(at)
                .build(),
            _ => opcode::WriteFixed::new(fd, begin, len, tag)
                .offset(at)
                .build(),
        };
        self.push(&sqe.user_data(DATA | u64::from(tag)))?;
        Ok(None)
    }

    /// Serves until the driver ends the FETCH; how many, and in how many completions.
    fn serve_all(&mut self) -> Result<(u64, u64)> {
        let (mut served, mut batches) = (0, 0);
        let mut later = Vec::new();
        self.fetch()?;
        loop {
            let cqe = match later.is_empty() {
                false => later.remove(0),
                true => match self.next(seconds(1))? {
                    Some(cqe) => cqe,
                    None => continue,
                },
            };
            let (of, result) = (cqe.user_data(), cqe.result());
            match of & !0xffff {
                PROVIDED => ensure!(result >= 0, "a buffer was refused: {result}"),
                DATA => self.answer(&[(of as u16, result)], &mut later)?,
                FETCHED if result == ublk::IO_RES_ABORT => return Ok((served, batches)),
                FETCHED if result == -libc::ENOBUFS => self.fetch()?,
                FETCHED if result > 0 => {
                    let id = cqueue::buffer_select(cqe.flags()).context("no buffer")?;
                    let begin = usize::from(id) * self.tags;
                    let tags = self.room[begin..begin + result as usize / 2].to_vec();
                    served += tags.len() as u64;
                    batches += 1;
                    self.provide(id)?;
                    let mut answers = Vec::new();
                    for tag in tags {
                        if let Some(answer) = self.serve(tag)? {
                            answers.push((tag, answer));
                        }
                    }
                    if !answers.is_empty() {
                        self.answer(&answers, &mut later)?;
                    }
                }
                _ => bail!("{of:#x} ended with {result}"),
            }
        }
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody else has the address.
        unsafe { libc::munmap(self.descs.cast_mut().cast(), descs_len(DEPTH)) };
    }
}

/// A server of so many threads, each with `buffers` for as many `tags`.
fn serves(auto: bool, threads: usize, buffers: usize, tags: usize) -> Result<()> {
    let mut flags = ublk::F_BATCH_IO;
    if auto {
        flags |= ublk::F_AUTO_BUF_REG;
    }
    needs_features(flags)?;
    let shared = Shared::new(auto)?;
    let serve = |thread| -> Serve {
        let shared = shared.clone();
        Box::new(move |node| {
            let mut batcher = Batcher::new(node, shared.clone(), buffers, tags)?;
            if thread == 0 {
                let all: Vec<_> = (0..DEPTH).map(|tag| (tag, 0)).collect();
                let (head, elements) = shared.elements(&all);
                let mut later = Vec::new();
                let got = batcher.run(PREP, head, &elements, &mut later)?;
                ensure!(got == 0, "PREP got {got}");
            }
            let (served, batches) = batcher.serve_all()?;
            ensure!(batches <= served, "{batches} completions for {served}");
            // Another thread may have been faster each time.
            Ok(served.max(u64::from(thread > 0)))
        })
    };
    Store::serve(flags, (0..threads).map(serve).collect())?.check()
}

pub fn copied() -> Result<()> {
    serves(false, 1, 4, usize::from(DEPTH))
}

pub fn by_driver() -> Result<()> {
    serves(true, 1, 4, usize::from(DEPTH))
}

/// One buffer, for one tag: most of what is pending has to wait for the next FETCH.
pub fn little_room() -> Result<()> {
    serves(false, 1, 1, 1)?;
    serves(true, 1, 1, 1)
}

pub fn two_rings() -> Result<()> {
    serves(false, 2, 2, 2)?;
    serves(true, 2, 2, 2)
}

/// What is malformed, out of turn, or not for such a device.
pub fn refusals() -> Result<()> {
    let control = needs_features(ublk::F_BATCH_IO)?;
    let add = |flags| {
        control.add(&AddRequest {
            queues: 1,
            depth: DEPTH,
            max_io_bytes: IO_BYTES as u32,
            flags,
            ..AddRequest::default()
        })
    };
    let info = add(ublk::F_BATCH_IO | ublk::F_NEED_GET_DATA)?;
    let device = Ubd::adopt(info.dev_id);
    let hidden = ublk::F_NEED_GET_DATA | ublk::F_PER_IO_DAEMON;
    ensure!(info.flags & hidden == 0, "got the flags {:#x}", info.flags);
    control.set_params(info.dev_id, &params())?;
    let shared = Shared::new(false)?;
    let mut batcher = Batcher::new(open_node(info.dev_id)?, shared.clone(), 1, 8)?;
    let mut later = Vec::new();
    let mut expect = |batcher: &mut Batcher, what: &str, op, head, bytes: &[u8], want: i32| {
        let got = batcher.run(op, head, bytes, &mut later)?;
        ensure!(got == want, "{what} got {got}, not {want}");
        Ok(())
    };
    let (good, one) = shared.elements(&[(0, 0)]);
    let no_addr = [one.as_slice()[..8].to_vec(), vec![0; 8]].concat();
    let odd = Head { bytes: 8, ..good };
    let flags = Head {
        flags: HAS_BUF_ADDR | 1 << 3,
        ..good
    };
    let zones = Head {
        flags: HAS_BUF_ADDR | 1,
        bytes: 24,
        ..good
    };
    let many = Head {
        nr: DEPTH + 1,
        ..good
    };
    let none = Head { nr: 0, ..good };
    let inval = -libc::EINVAL;
    expect(&mut batcher, "a wrong size", PREP, odd, &one, inval)?;
    expect(&mut batcher, "an unknown flag", PREP, flags, &one, inval)?;
    expect(&mut batcher, "zones", PREP, zones, &[0; 24], inval)?;
    expect(&mut batcher, "no elements", PREP, none, &one, inval)?;
    expect(&mut batcher, "no address", PREP, good, &no_addr, inval)?;
    let long = vec![0; 16 * usize::from(DEPTH + 1)];
    expect(&mut batcher, "too many", PREP, many, &long, -libc::E2BIG)?;
    let (two, twice) = shared.elements(&[(1, 0), (1, 0)]);
    expect(
        &mut batcher,
        "twice the same",
        PREP,
        two,
        &twice,
        -libc::EBUSY,
    )?;
    let mut beyond = shared.elements(&[(1, 0), (2, 0)]).1;
    beyond[16] = DEPTH as u8;
    expect(&mut batcher, "no such tag", PREP, two, &beyond, inval)?;
    // None of those has left a tag behind.
    let (all, elements) = shared.elements(&(0..DEPTH).map(|tag| (tag, 0)).collect::<Vec<_>>());
    expect(&mut batcher, "PREP", PREP, all, &elements, 0)?;
    expect(&mut batcher, "PREP again", PREP, good, &one, -libc::EBUSY)?;
    expect(
        &mut batcher,
        "an early COMMIT",
        COMMIT,
        good,
        &one,
        -libc::EBUSY,
    )?;
    expect(&mut batcher, "an empty COMMIT", COMMIT, none, &one, 0)?;
    let single = fetch(batcher.node.as_raw_fd(), 0).flags(squeue::Flags::empty());
    batcher.push(&single)?;
    let ended = batcher.next(seconds(10))?.context("FETCH goes on")?;
    ensure!(
        ended.result() == inval,
        "a FETCH for one got {}",
        ended.result()
    );
    let mut queue = Queue::new(batcher.node.try_clone()?, 0, DEPTH)?;
    let got = queue.now(ublk::U_IO_FETCH_REQ, queue.cmd(0, 0))?;
    ensure!(got == -libc::EOPNOTSUPP, "FETCH_REQ got {got}");
    drop((queue, batcher));
    delete(&control, device)?;

    let plain = add(0)?;
    let device = Ubd::adopt(plain.dev_id);
    let mut batcher = Batcher::new(open_node(plain.dev_id)?, shared.clone(), 1, 8)?;
    let not = -libc::EOPNOTSUPP;
    expect(
        &mut batcher,
        "PREP on a plain device",
        PREP,
        good,
        &one,
        not,
    )?;
    expect(
        &mut batcher,
        "COMMIT on a plain device",
        COMMIT,
        good,
        &one,
        not,
    )?;
    drop(batcher);
    delete(&control, device)
}
