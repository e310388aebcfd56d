// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that are not forwarded as they are.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use io_uring::{opcode, types, IoUring};
use std::os::fd::AsRawFd;
use ubd_bpf::uapi::ublk;

use super::server::{Device, Setup};
use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, read_direct, Aligned};
use crate::support::{growth, RamDisk, RawUser};

const SECTORS: u64 = 16 << 11;

/// Random reads and writes, of which the server forwards a few sectors at a time to two slots in
/// turn, and answers some parts itself.
pub fn in_parts() -> Result<()> {
    let disks = [RamDisk::new()?, RamDisk::new()?];
    let nodes = disks.each_ref().map(RamDisk::node);
    let paths = nodes.each_ref().map(|node| (Path::new(node), true));
    let requests = Arc::new(AtomicU64::new(0));
    let seen = requests.clone();
    // Even stretches of 8 sectors are on slot 0, odd ones on slot 1, at the same place.
    let device = Device::start(&Setup::new(&paths, SECTORS), move |event| {
        ensure!(event.result == 0, "refused: {}", event.result);
        seen.fetch_add(1, Ordering::Relaxed);
        let at = event.desc.start_sector;
        let left = (8 - at % 8) as u32;
        // Also parts that end within a stretch, and within a bio's page.
        let part = if at % 3 == 0 { left.min(3) } else { left };
        let slot = (at / 8 % 2) as u32;
        event.forward_to((slot, at), part.min(event.desc.nr_sectors))
    })?;
    let mut user = RawUser::of(&device.ubd.node(), vec![0; (SECTORS << 9) as usize])?;
    let before = requests.load(Ordering::Relaxed);
    let count = growth(&device.ubd, || {
        user.write(60)?;
        user.read(60)?;
        user.write(40)?;
        user.read(40)
    })?;
    let requests = requests.load(Ordering::Relaxed) - before;
    ensure!(
        count["forwarded"] == requests && requests > 1000,
        "{requests} requests: {}",
        count.summary()
    );
    for op in ["read", "write"] {
        ensure!(
            count[&format!("{op}_forwarded_sectors")] == count[&format!("{op}_declined_sectors")],
            "{}",
            count.summary()
        );
    }
    let bytes = std::mem::take(&mut user.bytes);
    drop(user);
    device.end()?;
    let on: Vec<_> = nodes
        .iter()
        .map(|node| read_direct(node, 0, bytes.len()))
        .collect::<Result<_>>()?;
    for (number, stretch) in bytes.chunks(4096).enumerate() {
        same(&on[number % 2][number * 4096..][..4096], stretch)
            .with_context(|| format!("stretch {number}"))?;
    }
    Ok(())
}

/// Writes that lie side by side and come together are one request of several bios.
pub fn merged() -> Result<()> {
    const PIECES: usize = 16;
    let disk = RamDisk::new()?;
    let node = disk.node();
    let largest = Arc::new(AtomicU32::new(0));
    let seen = largest.clone();
    let device = Device::start(
        &Setup::new(&[(Path::new(&node), true)], SECTORS),
        move |event| {
            seen.fetch_max(event.desc.nr_sectors, Ordering::Relaxed);
            // In two parts, of which the second begins within a bio.
            let part = match event.desc.nr_sectors {
                n if n > 20 => 20,
                n => n,
            };
            event.forward_to((0, event.desc.start_sector), part)
        },
    )?;
    let file = open_direct(device.ubd.node(), true)?;
    let data = Aligned::copy_of(noise(77, PIECES * 4096), 0);
    let mut ring = IoUring::new(PIECES as u32)?;
    largest.store(0, Ordering::Relaxed);
    for (number, piece) in data.chunks(4096).enumerate() {
        let sqe = opcode::Write::new(types::Fd(file.as_raw_fd()), piece.as_ptr(), 4096)
            .offset(number as u64 * 4096)
            .build();
        // SAFETY: the data outlives the ring's use of it: all is waited for below.
        unsafe { ring.submission().push(&sqe) }.context("the ring is full")?;
    }
    ring.submit_and_wait(PIECES)?;
    let results: Vec<_> = ring.completion().map(|cqe| cqe.result()).collect();
    ensure!(results == [4096; PIECES], "{results:?}");
    ensure!(
        largest.load(Ordering::Relaxed) > 16,
        "nothing was merged: {} sectors",
        largest.load(Ordering::Relaxed)
    );
    drop(file);
    device.end()?;
    same(&read_direct(&node, 0, data.len())?, &data)
}

/// With USER_COPY: what was forwarded cannot be copied any more, nothing is copied at all, and
/// the file of the char device is no way to it.
pub fn not_borrowed() -> Result<()> {
    let disk = RamDisk::new()?;
    let node = disk.node();
    let refused = Arc::new(AtomicU64::new(0));
    let seen = refused.clone();
    let slots = [(Path::new(&*node), true)];
    let setup = Setup {
        flags: ublk::F_USER_COPY,
        ..Setup::new(&slots, SECTORS)
    };
    let device = Device::start(&setup, move |event| {
        ensure!(event.result == 0, "refused: {}", event.result);
        let place = 0x8000_0000 + (u64::from(event.tag) << 25);
        event.forward()?;
        if event.op() == ublk::IO_OP_WRITE {
            let mut data = [0; 512];
            let err = event.queue.node.read_at(&mut data, place).err();
            // Or the next request of the tag is there already, which nobody borrows either.
            if err.and_then(|err| err.raw_os_error()) == Some(libc::EINVAL) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    })?;
    let mut user = RawUser::of(&device.ubd.node(), read_direct(&node, 0, 16 << 20)?)?;
    let count = growth(&device.ubd, || {
        user.write(50)?;
        user.read(50)
    })?;
    ensure!(count["write_forwarded"] >= 50, "{}", count.summary());
    let refused = refused.load(Ordering::Relaxed);
    ensure!(refused >= 50, "only {refused} copies were refused");
    user.check(&node)?;
    drop(user);
    device.end()
}
