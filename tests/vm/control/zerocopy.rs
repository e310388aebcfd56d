// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that never see the data: a request's pages as a registered buffer of a ring.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use io_uring::{opcode, types};
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;

use super::modes::{Store, DEPTH};
use super::server::{
    add_unscanned, command, delete, descs_len, map, open_node, spawn_writer, Queue, IO_BYTES,
    SECTORS,
};
use crate::support::io::{open_direct, read_direct};
use crate::support::{needs_features, seconds, Skip, Ubd};

/// Beyond every ring's table.
const NOWHERE: u64 = 0xffff;

/// Who puts a request's pages into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The driver, where it was told to.
    Driver,
    /// The server, since the driver was told a place that is not there.
    Fallback,
    /// The server.
    Server,
    /// Nobody: the driver was told a place that is not there, and nothing else.
    Nowhere,
}

impl By {
    /// What FETCH and COMMIT carry.
    fn place(self, tag: u16) -> Option<u64> {
        match self {
            By::Driver => Some(tag.into()),
            By::Fallback => Some(NOWHERE | ublk::AUTO_BUF_REG_FALLBACK << 16),
            By::Server => None,
            By::Nowhere => Some(NOWHERE),
        }
    }
}

/// What a completion is of; above the tag in the user data.
const REQUEST: u64 = 0;
const REGISTER: u64 = 1;
const DATA: u64 = 2;
const UNREGISTER: u64 = 3;

/// A queue whose data is in a file.
struct Lender {
    queue: Queue,
    by: By,
    descs: *const ublk::IoDesc,
    file: File,
    answers: [i32; DEPTH as usize],
    by_hand: u64,
}

impl Lender {
    fn new(node: File, by: By, file: File) -> Result<Lender> {
        let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
        let queue = Queue::new(node, 0, DEPTH)?;
        queue.make_table(DEPTH.into())?;
        let mut lender = Lender {
            queue,
            by,
            descs: descs.cast_const().cast(),
            file,
            answers: [0; DEPTH as usize],
            by_hand: 0,
        };
        for tag in 0..DEPTH {
            lender.submit(REQUEST, ublk::U_IO_FETCH_REQ, tag, 0, by.place(tag))?;
        }
        Ok(lender)
    }

    fn submit(&mut self, kind: u64, op: u32, tag: u16, result: i32, at: Option<u64>) -> Result<()> {
        let cmd = ublk::IoCmd {
            q_id: 0,
            tag,
            result,
            // The place in the table; the others must not give one there.
            addr: if kind == REQUEST { 0 } else { tag.into() },
        };
        let sqe = command(self.queue.node.as_raw_fd(), op, &cmd, at);
        // SAFETY: it points to nothing.
        unsafe { self.queue.push(&sqe.user_data(kind << 16 | u64::from(tag))) }
    }

    fn desc(&self, tag: u16) -> ublk::IoDesc {
        // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
        unsafe { self.descs.add(tag.into()).read_volatile() }
    }

    /// Moves the data of a tag's request between its pages and the file.
    fn data(&mut self, tag: u16) -> Result<()> {
        let desc = self.desc(tag);
        let (fd, len) = (types::Fd(self.file.as_raw_fd()), desc.nr_sectors << 9);
        // The "address" is an offset in the buffer.
        let (offset, begin) = (desc.start_sector << 9, std::ptr::null_mut());
        let sqe = match desc.op_flags & 0xff {
            ublk::IO_OP_READ => opcode::ReadFixed::new(fd, begin, len, tag)
                .offset(offset)
                .build(),
            _ => opcode::WriteFixed::new(fd, begin, len, tag)
                .offset(offset)
                .build(),
        };
        // SAFETY: the pages are the request's, which lasts as long as they are registered.
        unsafe { self.queue.push(&sqe.user_data(DATA << 16 | u64::from(tag))) }
    }

    fn commit(&mut self, tag: u16) -> Result<()> {
        let answer = self.answers[usize::from(tag)];
        let op = ublk::U_IO_COMMIT_AND_FETCH_REQ;
        self.submit(REQUEST, op, tag, answer, self.by.place(tag))
    }

    /// A request has come, its pages or their registration have.
    fn begin(&mut self, tag: u16) -> Result<()> {
        let desc = self.desc(tag);
        if !matches!(desc.op_flags & 0xff, ublk::IO_OP_READ | ublk::IO_OP_WRITE) {
            self.answers[usize::from(tag)] = 0;
            return self.commit(tag);
        }
        let asked = desc.op_flags & ublk::IO_F_NEED_REG_BUF != 0;
        ensure!(
            asked == (self.by == By::Fallback),
            "flags {:#x}",
            desc.op_flags
        );
        if self.by == By::Driver {
            return self.data(tag);
        }
        self.by_hand += 1;
        self.submit(REGISTER, ublk::U_IO_REGISTER_IO_BUF, tag, 0, None)
    }

    /// Serves until the driver has taken all tags back; how many, and how many registered by hand.
    fn run(mut self) -> Result<(u64, u64)> {
        let (mut live, mut served) = (DEPTH, 0);
        while live > 0 {
            let Some((of, result)) = self.queue.next_of(seconds(1))? else {
                continue;
            };
            let (kind, tag) = (of >> 16, of as u16);
            match (kind, result) {
                (REQUEST, ublk::IO_RES_ABORT) => live -= 1,
                (REQUEST, ublk::IO_RES_OK) => {
                    served += 1;
                    self.begin(tag)?;
                }
                (REGISTER, 0) => self.data(tag)?,
                (DATA, 0..) => {
                    self.answers[usize::from(tag)] = result;
                    match self.by {
                        By::Driver => self.commit(tag)?,
                        _ => self.submit(UNREGISTER, ublk::U_IO_UNREGISTER_IO_BUF, tag, 0, None)?,
                    }
                }
                (UNREGISTER, 0) => self.commit(tag)?,
                _ => bail!(
                    "kind {kind} of tag {tag} ended with {result}: {:?}, after {served}",
                    self.desc(tag)
                ),
            }
        }
        Ok((served, self.by_hand))
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody else has the address.
        unsafe { libc::munmap(self.descs.cast_mut().cast(), descs_len(DEPTH)) };
    }
}

/// A file of the device's size, without a name.
pub fn backing() -> Result<File> {
    let path = format!("/tmp/lender-{}", std::process::id());
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(SECTORS << 9)?;
    Ok(file)
}

/// Random I/O through such a server; whoever is to register the pages does.
fn serves(flags: u64, by: By) -> Result<()> {
    needs_features(flags)?;
    let file = backing()?;
    let by_hand = Arc::new(AtomicU64::new(0));
    let count = by_hand.clone();
    let serve = move |node| {
        let (served, by_hand) = Lender::new(node, by, file)?.run()?;
        count.store(by_hand, Ordering::Relaxed);
        Ok(served)
    };
    Store::serve(flags, vec![Box::new(serve)])?.check()?;
    let by_hand = by_hand.load(Ordering::Relaxed);
    ensure!(
        (by_hand == 0) == (by == By::Driver),
        "{by_hand} were registered by hand"
    );
    Ok(())
}

pub fn by_driver() -> Result<()> {
    serves(ublk::F_AUTO_BUF_REG, By::Driver)
}

pub fn fallback() -> Result<()> {
    serves(
        ublk::F_AUTO_BUF_REG | ublk::F_SUPPORT_ZERO_COPY,
        By::Fallback,
    )
}

pub fn by_server() -> Result<()> {
    serves(ublk::F_SUPPORT_ZERO_COPY, By::Server)
}

/// A device whose server is the test itself.
struct Held {
    control: Control,
    device: Ubd,
    lender: Lender,
    disk: File,
}

impl Held {
    fn start(flags: u64, by: By) -> Result<Held> {
        let control = needs_features(flags)?;
        let device = add_unscanned(&control, flags, DEPTH)?;
        let lender = Lender::new(open_node(device.id())?, by, backing()?)?;
        control.start(device.id(), std::process::id())?;
        let disk = open_direct(device.node(), true)?;
        Ok(Held {
            control,
            device,
            lender,
            disk,
        })
    }

    /// Starts a write of 4 KiB; gives its tag, and with it the whole request, to the test.
    fn write(&mut self) -> Result<(u16, JoinHandle<io::Result<()>>)> {
        let writer = spawn_writer(&self.disk, 1..2, 0xa5)?;
        loop {
            let (_, tag, _) = self.next()?.context("no request came")?;
            if self.lender.desc(tag).op_flags & 0xff == ublk::IO_OP_WRITE {
                return Ok((tag, writer));
            }
            self.lender.commit(tag)?;
        }
    }

    /// The next completion: kind, tag and result.
    fn next(&mut self) -> Result<Option<(u64, u16, i32)>> {
        let next = self.lender.queue.next_of(seconds(5))?;
        Ok(next.map(|(of, result)| (of >> 16, of as u16, result)))
    }

    /// The result of what was asked of a kind. Others look at the disk, too: they get nothing.
    fn answer(&mut self, of: u64, tag: u16) -> Result<i32> {
        loop {
            match self.next()?.context("nothing completes")? {
                (REQUEST, other, ublk::IO_RES_OK) if (of, tag) != (REQUEST, other) => {
                    self.lender.answers[usize::from(other)] = -libc::EIO;
                    self.lender.commit(other)?;
                }
                (kind, which, result) if (kind, which) == (of, tag) => return Ok(result),
                other => bail!("{other:?} completes"),
            }
        }
    }

    /// All tags come back, however many requests are answered before.
    fn all_end(&mut self) -> Result<()> {
        let mut live = DEPTH;
        while live > 0 {
            match self.next()?.context("not all tags end")? {
                (REQUEST, _, ublk::IO_RES_ABORT) => live -= 1,
                (REQUEST, tag, ublk::IO_RES_OK) => self.lender.commit(tag)?,
                other => bail!("{other:?} completes"),
            }
        }
        Ok(())
    }

    /// Runs a command on a buffer.
    fn buffer(&mut self, op: u32, tag: u16, index: u64, want: i32) -> Result<()> {
        let cmd = ublk::IoCmd {
            q_id: 0,
            tag,
            result: 0,
            addr: index,
        };
        let sqe = command(self.lender.queue.node.as_raw_fd(), op, &cmd, None);
        let of = REGISTER << 16 | u64::from(tag);
        // SAFETY: it points to nothing.
        unsafe { self.lender.queue.push(&sqe.user_data(of)) }?;
        let got = self.answer(REGISTER, tag)?;
        ensure!(
            got == want,
            "{op:#x} for tag {tag} at {index} got {got}, not {want}"
        );
        Ok(())
    }

    fn commit(&mut self, tag: u16) -> Result<()> {
        self.lender.answers[usize::from(tag)] = 4096;
        self.lender.commit(tag)
    }

    fn delete(self) -> Result<()> {
        drop((self.lender, self.disk));
        delete(&self.control, self.device)
    }
}

/// Time enough for what must not happen to happen.
fn a_while() {
    std::thread::sleep(Duration::from_millis(300));
}

const REG: u32 = ublk::U_IO_REGISTER_IO_BUF;
const UNREG: u32 = ublk::U_IO_UNREGISTER_IO_BUF;

/// A request lasts until its last registration is gone, however early the answer comes.
pub fn lent_until_returned() -> Result<()> {
    let mut held = Held::start(ublk::F_SUPPORT_ZERO_COPY, By::Server)?;
    let (tag, writer) = held.write()?;
    held.buffer(REG, tag, 3, 0)?;
    held.buffer(REG, tag, 4, 0)?;
    held.commit(tag)?;
    a_while();
    ensure!(!writer.is_finished(), "it ended with two registrations");
    held.buffer(UNREG, tag, 3, 0)?;
    a_while();
    ensure!(!writer.is_finished(), "it ended with a registration");
    held.buffer(UNREG, tag, 4, 0)?;
    writer.join().expect("joining")?;
    held.delete()
}

/// The same in the ring of another thread, which then just goes.
pub fn another_ring() -> Result<()> {
    let mut held = Held::start(ublk::F_SUPPORT_ZERO_COPY, By::Server)?;
    let (tag, writer) = held.write()?;
    let node = held.lender.queue.node.try_clone()?;
    let other = std::thread::spawn(move || -> Result<Queue> {
        let mut queue = Queue::new(node, 0, DEPTH)?;
        queue.make_table(1)?;
        let cmd = ublk::IoCmd {
            q_id: 0,
            tag,
            result: 0,
            addr: 0,
        };
        let got = queue.now(REG, cmd)?;
        ensure!(got == 0, "REGISTER got {got}");
        Ok(queue)
    });
    let queue = other.join().expect("joining")?;
    held.commit(tag)?;
    a_while();
    ensure!(!writer.is_finished(), "it ended with a registration");
    drop(queue);
    writer.join().expect("joining")?;
    held.delete()
}

/// STOP waits for the pages, and a server that answers gives them back.
pub fn stop_waits() -> Result<()> {
    let mut held = Held::start(ublk::F_AUTO_BUF_REG, By::Driver)?;
    let (tag, writer) = held.write()?;
    let id = held.device.id();
    let stop = std::thread::spawn(move || Control::open()?.stop(id));
    a_while();
    ensure!(!stop.is_finished(), "STOP did not wait");
    held.commit(tag)?;
    held.all_end()?;
    stop.join().expect("joining")?;
    ensure!(writer.join().expect("joining").is_err(), "it was stopped");
    held.delete()
}

/// A server that goes takes its ring with it, and that the pages.
pub fn server_goes() -> Result<()> {
    let mut held = Held::start(ublk::F_AUTO_BUF_REG, By::Driver)?;
    let (tag, writer) = held.write()?;
    held.buffer(UNREG, tag, u64::from(tag), -libc::EINVAL)?;
    a_while();
    ensure!(!writer.is_finished(), "it ended by itself");
    drop(held.lender);
    ensure!(writer.join().expect("joining").is_err(), "it was answered");
    drop(held.disk);
    delete(&held.control, held.device)
}

/// What cannot be registered, or not so.
pub fn refusals() -> Result<()> {
    let mut held = Held::start(ublk::F_SUPPORT_ZERO_COPY, By::Server)?;
    let (tag, writer) = held.write()?;
    let other = (tag + 1) % DEPTH;
    held.buffer(REG, other, 1, -libc::EINVAL)?;
    held.buffer(REG, DEPTH, 1, -libc::EINVAL)?;
    held.buffer(REG, tag, DEPTH.into(), -libc::EINVAL)?;
    held.buffer(REG, tag, 1 << 32, -libc::EINVAL)?;
    held.buffer(UNREG, tag, 1, -libc::EINVAL)?;
    held.buffer(UNREG, tag, 1 << 32 | 1, -libc::EINVAL)?;
    held.buffer(REG, tag, 1, 0)?;
    held.buffer(REG, tag, 1, -libc::EBUSY)?;
    held.buffer(UNREG, tag, 1, 0)?;
    held.commit(tag)?;
    writer.join().expect("joining")?;
    held.delete()?;

    let mut held = Held::start(ublk::F_AUTO_BUF_REG, By::Driver)?;
    let (tag, writer) = held.write()?;
    for at in [1 << 17, 1 << 24, 1 << 32] {
        let commit = ublk::U_IO_COMMIT_AND_FETCH_REQ;
        held.lender.submit(REQUEST, commit, tag, 4096, Some(at))?;
        let got = held.answer(REQUEST, tag)?;
        ensure!(got == -libc::EINVAL, "{at:#x} got {got}");
    }
    held.buffer(REG, tag, 7, -libc::EINVAL)?;
    held.commit(tag)?;
    writer.join().expect("joining")?;
    held.delete()
}

/// A place that is not there and no way out: requests fail, the tags live on.
pub fn nowhere() -> Result<()> {
    let mut held = Held::start(ublk::F_AUTO_BUF_REG, By::Nowhere)?;
    let path = held.device.node();
    let reader = std::thread::spawn(move || {
        let read = |_| read_direct(&path, 0, 4096);
        (0..3 * DEPTH).map(read).filter(Result::is_ok).count()
    });
    while !reader.is_finished() {
        // The ring's thread does the delivering.
        let next = held.lender.queue.next(Duration::from_millis(20))?;
        ensure!(next.is_none(), "{next:?} completes");
    }
    let read = reader.join().expect("joining");
    ensure!(read == 0, "{read} reads came from nowhere");
    held.control.stop(held.device.id())?;
    held.all_end()?;
    held.delete()
}

/// Where the kernel cannot do it, nothing promises it.
pub fn not_here() -> Result<()> {
    let control = Control::open()?;
    let lending = ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG | ublk::F_BUF_REG_OFF_DAEMON;
    let features = control.ublk_features()? & lending;
    if features != 0 {
        ensure!(features == lending, "only {features:#x} of {lending:#x}");
        return Err(Skip("this kernel lets drivers register buffers".into()).into());
    }
    let info = control.add(&AddRequest {
        queues: 1,
        depth: DEPTH,
        max_io_bytes: IO_BYTES as u32,
        flags: lending,
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(info.dev_id);
    ensure!(info.flags & lending == 0, "got the flags {:#x}", info.flags);
    let mut queue = Queue::new(open_node(info.dev_id)?, 0, DEPTH)?;
    for op in [REG, UNREG] {
        let got = queue.now(op, queue.cmd(0, 0))?;
        ensure!(got == -libc::EOPNOTSUPP, "{op:#x} got {got}");
    }
    drop(queue);
    delete(&control, device)
}
