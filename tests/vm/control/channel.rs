// SPDX-License-Identifier: MIT OR Apache-2.0
//! FETCH, COMMIT and mmap from where they must not come.

use std::fs::OpenOptions;
use std::io;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use io_uring::squeue;
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use super::server::{
    add, delete, descs_len, descs_offset, map, open_node, Manners, Queue, Server, GOOD,
};
use crate::support::io::read_direct;
use crate::support::{slowness, wait_for, Fio};

const DEPTH: u16 = 4;
const SOON: Duration = Duration::from_secs(10);

fn expect(what: &str, result: i32, errno: i32) -> Result<()> {
    ensure!(result == -errno, "{what}: {result} instead of {}", -errno);
    Ok(())
}

/// Fetches and commits that fit no tag, no request, no thread and no ring.
pub fn abuse() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 2, DEPTH)?;
    let mut queue = Queue::new(open_node(ubd.id())?, 0, DEPTH)?;
    let (fetch, commit) = (ublk::U_IO_FETCH_REQ, ublk::U_IO_COMMIT_AND_FETCH_REQ);

    let second = open_node(ubd.id())
        .err()
        .context("the node can be opened twice")?;
    let errno = second
        .downcast_ref::<io::Error>()
        .and_then(io::Error::raw_os_error);
    ensure!(errno == Some(libc::EBUSY), "the second open got {second:#}");

    for tag in [DEPTH, 4095, u16::MAX] {
        expect(
            "fetch of a tag that is not",
            queue.now(fetch, queue.cmd(tag, 0))?,
            libc::EINVAL,
        )?;
        expect(
            "commit of a tag that is not",
            queue.now(commit, queue.cmd(tag, 0))?,
            libc::EINVAL,
        )?;
    }
    for q_id in [2, 4096, u16::MAX] {
        let cmd = ublk::IoCmd {
            q_id,
            ..queue.cmd(0, 0)
        };
        expect(
            "fetch of a queue that is not",
            queue.now(fetch, cmd)?,
            libc::EINVAL,
        )?;
    }
    let nowhere = ublk::IoCmd {
        addr: 0,
        ..queue.cmd(0, 0)
    };
    expect(
        "fetch without a buffer",
        queue.now(fetch, nowhere)?,
        libc::EINVAL,
    )?;
    expect(
        "commit before any fetch",
        queue.now(commit, queue.cmd(0, 0))?,
        libc::EINVAL,
    )?;
    for op in [0, 0x20, 0x21, 0x22, fetch ^ 0x80, u32::MAX] {
        expect(
            "an unknown command",
            queue.now(op, queue.cmd(0, 0))?,
            libc::EOPNOTSUPP,
        )?;
    }

    for tag in 0..DEPTH {
        queue.fetch(tag)?;
    }
    ensure!(
        queue.next(Duration::from_millis(100))?.is_none(),
        "an idle fetch ended"
    );
    expect(
        "a second fetch of a tag",
        queue.now(fetch, queue.cmd(1, 0))?,
        libc::EBUSY,
    )?;
    expect(
        "commit without a request",
        queue.now(commit, queue.cmd(1, 0))?,
        libc::EINVAL,
    )?;

    let mut other = Queue::new(queue.node.try_clone()?, 0, DEPTH)?;
    for op in [fetch, commit] {
        expect(
            "a command from another ring",
            other.now(op, other.cmd(1, 0))?,
            libc::EINVAL,
        )?;
    }
    let node = queue.node.try_clone()?;
    let stranger = std::thread::spawn(move || -> Result<i32> {
        let mut queue = Queue::new(node, 0, DEPTH)?;
        queue.now(ublk::U_IO_COMMIT_AND_FETCH_REQ, queue.cmd(1, 0))
    });
    expect(
        "a command from another thread",
        stranger.join().expect("joining")?,
        libc::EINVAL,
    )?;

    // DEL gives every command back, and takes no more.
    control.del(ubd.id())?;
    for _ in 0..DEPTH {
        let (_, result) = queue
            .next(SOON * slowness())?
            .context("DEL has not given a command back")?;
        expect("a command that DEL gives back", result, libc::ENODEV)?;
    }
    expect(
        "fetch after DEL",
        queue.now(fetch, queue.cmd(0, 0))?,
        libc::ENODEV,
    )?;
    drop((queue, other));
    let late = OpenOptions::new()
        .read(true)
        .open(format!("/dev/ubdc{}", ubd.id()));
    ensure!(late.is_err(), "the node is still there");
    Ok(())
}

/// Two threads fetch the same tag at the same time: one of them owns it from then on.
pub fn racing_fetches() -> Result<()> {
    let control = Control::open()?;
    for round in 0..25 {
        let ubd = add(&control, None, 1, 2)?;
        let node = open_node(ubd.id())?;
        let barrier = Barrier::new(2);
        let fetch = || -> Result<(Queue, Option<i32>)> {
            let mut queue = Queue::new(node.try_clone()?, 0, 2)?;
            barrier.wait();
            queue.fetch(1)?;
            let early = queue
                .next(Duration::from_millis(20))?
                .map(|(_, result)| result);
            // Both rings stay until both have been told.
            barrier.wait();
            Ok((queue, early))
        };
        let results = std::thread::scope(|scope| {
            let threads = [0, 1].map(|_| scope.spawn(|| fetch().map(|(_, early)| early)));
            threads.map(|thread| thread.join().expect("joining"))
        });
        let [first, second] = results;
        let results = [first?, second?];
        let refused = results
            .iter()
            .filter(|result| **result == Some(-libc::EINVAL))
            .count();
        ensure!(
            refused == 1,
            "round {round}: two threads serve one tag: {results:?}"
        );
        drop(node);
        delete(&control, ubd)?;
    }
    Ok(())
}

/// The descriptors can be read, by one process, and nothing else.
pub fn mmap() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 2, DEPTH)?;
    let node = open_node(ubd.id())?;
    let len = descs_len(DEPTH);
    let refused = |what: &str, prot: i32, len: usize, offset: u64, errno: i32| -> Result<()> {
        let err = map(&node, prot, len, offset)
            .err()
            .with_context(|| format!("{what} can be mapped"))?;
        ensure!(
            err.raw_os_error() == Some(errno),
            "{what}: {err} instead of errno {errno}"
        );
        Ok(())
    };
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    refused("a writable mapping", rw, len, 0, libc::EPERM)?;
    refused("too much", libc::PROT_READ, len + 4096, 0, libc::EINVAL)?;
    refused("a gigabyte", libc::PROT_READ, 1 << 30, 0, libc::EINVAL)?;
    refused(
        "an offset inside a queue",
        libc::PROT_READ,
        len,
        4096,
        libc::EINVAL,
    )?;
    refused(
        "a queue that is not",
        libc::PROT_READ,
        len,
        descs_offset(2),
        libc::EINVAL,
    )?;
    refused(
        "a far queue",
        libc::PROT_READ,
        len,
        descs_offset(u16::MAX),
        libc::EINVAL,
    )?;

    for q_id in 0..2 {
        let descs = map(&node, libc::PROT_READ, len, descs_offset(q_id))?;
        // SAFETY: a mapping of our own.
        let denied = unsafe { libc::mprotect(descs, len, rw) };
        ensure!(denied == -1, "the descriptors can be made writable");
        // SAFETY: as above.
        unsafe { libc::munmap(descs, len) };
    }
    // SAFETY: the child only makes system calls and leaves without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = match map(&node, libc::PROT_READ, len, 0) {
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => 0,
            Err(_) => 1,
            Ok(_) => 2,
        };
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child, a valid place for its status.
    let reaped = unsafe { libc::waitpid(child, &mut status, 0) };
    ensure!(reaped == child, "waiting for the child");
    ensure!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "another process: status {status:#x}"
    );
    Ok(())
}

/// A server all of whose commands come from io-wq serves like any other.
pub fn asynchronous() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, DEPTH)?;
    let server = Server::spawn(
        open_node(ubd.id())?,
        DEPTH,
        Manners {
            asynchronous: true,
            ..GOOD
        },
    );
    control.start(ubd.id(), std::process::id())?;
    ensure!(
        read_direct(ubd.node(), 0, 65536)?
            .iter()
            .all(|byte| *byte == 0),
        "a read is not zero"
    );
    let before = ubd.counters()?;
    Fio::new(&ubd.node(), 500).option("size=8M").run()?;
    ubd.counters()?.since(&before).all_declined(500)?;
    delete(&control, ubd)?;
    ensure!(server.quit()? >= 500, "the server has not served it");
    Ok(())
}

/// A command whose buffer is not there fails its request, and no other.
pub fn bad_buffer() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 1)?;
    let node = open_node(ubd.id())?;
    let mut queue = Queue::new(node, 0, 1)?;
    // Unmapped, and in the kernel's half.
    let cmd = ublk::IoCmd {
        addr: 0xdead_0000,
        ..queue.cmd(0, 0)
    };
    queue.submit(ublk::U_IO_FETCH_REQ, cmd, squeue::Flags::empty())?;
    control.start(ubd.id(), std::process::id())?;
    let path = ubd.node();
    let write = std::thread::spawn(move || {
        OpenOptions::new().write(true).open(&path).and_then(|file| {
            io::Write::write_all(&mut &file, &[1; 4096])?;
            file.sync_all()
        })
    });
    // Reads (of udev, of the partition scan) are answered from a buffer that is not there.
    let mut answered = 0;
    wait_for("the write to fail", SOON, || {
        if let Ok(Some((0, 0))) = queue.next(Duration::from_millis(20)) {
            let addr = if answered % 2 == 0 {
                0xdead_0000
            } else {
                u64::MAX - 4095
            };
            let cmd = ublk::IoCmd {
                addr,
                ..queue.cmd(0, 4096)
            };
            let _ = queue.submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, cmd, squeue::Flags::empty());
            answered += 1;
        }
        write.is_finished()
    })?;
    let err = write
        .join()
        .expect("joining")
        .err()
        .context("the write succeeded without a buffer")?;
    ensure!(err.raw_os_error() == Some(libc::EIO), "the write got {err}");
    delete(&control, ubd)
}
