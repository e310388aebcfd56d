// SPDX-License-Identifier: MIT OR Apache-2.0
//! Users of the front who may hold locks that the file system below would wait for: a thread calls
//! it for them.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{ensure, Context, Result};

use super::{mostly_inline, never_inline, Image, EXT4};
use crate::support::backing::{noise, same};
use crate::support::io::{forget_cached, open_buffered, read_direct};
use crate::support::{growth, Quiet};

const IMAGE: usize = 4 << 20;
/// `linux/prctl.h`.
const PR_SET_IO_FLUSHER: i32 = 57;

/// Opened O_EXCL, as a file system or device-mapper does: nothing is inline, not even for others.
pub fn exclusive() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let claim = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(ubd.node())?;
    let count = growth(&ubd, || {
        user.read(50)?;
        user.write(50)
    })?;
    never_inline(&count, 100)?;
    drop(claim);
    mostly_inline(&ubd, 1, || {
        user.read(50)?;
        user.write(50)?;
        Ok(100)
    })
    .context("no longer claimed")?;
    user.check(&image.path)
}

/// A task that others wait for when they need memory, as a FUSE server or an iSCSI target is.
pub fn frees_memory() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let io_flusher = |on: libc::c_ulong| {
        // SAFETY: marks this thread, and touches no memory.
        let done = unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, 0, 0, 0) };
        ensure!(done == 0, std::io::Error::last_os_error());
        Ok(())
    };
    io_flusher(1)?;
    let count = growth(&ubd, || {
        user.read(50)?;
        user.write(50)
    });
    io_flusher(0)?;
    never_inline(&count?, 100)?;
    user.check(&image.path)
}

/// Reads, readahead and writeback of the front's own page cache, whose folios are locked.
pub fn page_cache() -> Result<()> {
    let mut image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let file = open_buffered(ubd.node())?;
    let _quiet = Quiet::udev()?;
    let count = growth(&ubd, || {
        let mut is = vec![0; IMAGE];
        forget_cached(&file, 0, IMAGE as u64);
        file.read_exact_at(&mut is, 0)?;
        same(&is, &image.bytes)
    })?;
    never_inline(&count, 1).context("reading")?;
    let count = growth(&ubd, || {
        for at in (0..IMAGE - 70_000).step_by(65_536) {
            let data = noise(at / 2, 5000);
            image.bytes[at + 300..][..5000].copy_from_slice(data);
            file.write_all_at(data, at as u64 + 300)?;
        }
        Ok(file.sync_all()?)
    })?;
    never_inline(&count, 30).context("writeback")?;
    same(&read_direct(&image.path, 0, IMAGE)?, &image.bytes).context("the backing")
}

/// Faults on a mapping of the front, and direct I/O whose buffer is such a mapping: the locks are
/// those of the front's page cache, though the I/O is direct.
pub fn mapped_memory() -> Result<()> {
    const PART: usize = 1 << 20;
    let mut image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    image.bytes.copy_from_slice(&user.bytes);
    let file = open_buffered(ubd.node())?;
    forget_cached(&file, 0, IMAGE as u64);

    let count = growth(&ubd, || {
        let mut map = Map::new(&file, PART)?;
        same(map.bytes(), &image.bytes[..PART]).context("the mapping")?;
        map.bytes()[4096..8192].copy_from_slice(noise(77, 4096));
        image.bytes[4096..8192].copy_from_slice(noise(77, 4096));
        map.sync()
    })?;
    never_inline(&count, 2).context("faults and msync")?;

    let count = growth(&ubd, || {
        let mut map = Map::new(&file, PART)?;
        // Faulted in first, to count the direct I/O alone.
        map.bytes().fill(1);
        map.sync()?;
        let before = ubd.counters()?;
        user.file()
            .read_exact_at(&mut map.bytes()[..PART / 2], PART as u64)?;
        user.file()
            .write_all_at(&map.bytes()[..PART / 2], 2 * PART as u64)?;
        never_inline(&ubd.counters()?.since(&before), 2)?;
        map.sync()
    })?;
    never_inline(&count, 2).context("direct I/O on a mapping of the front")?;
    let (start, rest) = image.bytes.split_at_mut(PART);
    start.fill(1);
    start[..PART / 2].copy_from_slice(&rest[..PART / 2]);
    rest[PART..][..PART / 2].copy_from_slice(&start[..PART / 2]);
    user.bytes.copy_from_slice(&image.bytes);
    user.check(&image.path)?;
    ensure!(user.read(10).is_ok(), "the disk is not well");
    Ok(())
}

/// The start of a file, shared.
struct Map {
    start: *mut u8,
    len: usize,
}

impl Map {
    fn new(file: &File, len: usize) -> Result<Map> {
        // SAFETY: a new mapping of an open file, wherever there is room.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        ensure!(start != libc::MAP_FAILED, "failed to map the disk");
        let start = start.cast();
        Ok(Map { start, len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long and as writable as that; only this test touches it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn sync(&self) -> Result<()> {
        // SAFETY: the whole mapping.
        let ret = unsafe { libc::msync(self.start.cast(), self.len, libc::MS_SYNC) };
        ensure!(ret == 0, "failed to sync the mapping");
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
