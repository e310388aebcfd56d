// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain I/O on a node: direct and through the page cache, discard, zero-out.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};

const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;
const PAGE: usize = 4096;

/// A buffer at a page boundary, or at a given distance behind one.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub fn new(len: usize) -> Aligned {
        Aligned::shifted(len, 0)
    }

    pub fn shifted(len: usize, shift: usize) -> Aligned {
        let memory = vec![0; len + shift % PAGE + PAGE];
        let start = memory.as_ptr().align_offset(PAGE) + shift % PAGE;
        Aligned { memory, start, len }
    }

    pub fn copy_of(data: &[u8], shift: usize) -> Aligned {
        let mut buffer = Aligned::shifted(data.len(), shift);
        buffer.copy_from_slice(data);
        buffer
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Opens a node past the page cache.
pub fn open_direct(path: impl AsRef<Path>, write: bool) -> Result<File> {
    let path = path.as_ref();
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    file.with_context(|| format!("failed to open `{}`", path.display()))
}

/// Opens a node through the page cache.
pub fn open_buffered(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("failed to open `{}`", path.display()))
}

/// Reads `len` bytes at `at`, past the page cache; both in blocks.
pub fn read_direct(path: impl AsRef<Path>, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut buffer = Aligned::new(len);
    open_direct(path, false)?
        .read_exact_at(&mut buffer, at)
        .context("failed to read")?;
    Ok(buffer.to_vec())
}

/// Writes at `at`, past the page cache; both in blocks.
pub fn write_direct(path: impl AsRef<Path>, at: u64, data: &[u8]) -> Result<()> {
    open_direct(path, true)?
        .write_all_at(&Aligned::copy_of(data, 0), at)
        .context("failed to write")
}

/// preadv2 with flags such as RWF_NOWAIT.
pub fn read_flags(file: &File, buffer: &mut [u8], at: u64, flags: i32) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: one vector, over a buffer that we hold exclusively.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &iov, 1, at as libc::off_t, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// pwritev2 with flags such as RWF_DSYNC.
pub fn write_flags(file: &File, buffer: &[u8], at: u64, flags: i32) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buffer.as_ptr().cast_mut().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: one vector, over a buffer that is only read.
    let n = unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, at as libc::off_t, flags) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// BLKDISCARD.
pub fn discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    range_ioctl(file, BLKDISCARD, at, len)
}

/// BLKZEROOUT.
pub fn zero_out(file: &File, at: u64, len: u64) -> io::Result<()> {
    range_ioctl(file, BLKZEROOUT, at, len)
}

fn range_ioctl(file: &File, cmd: libc::c_ulong, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: both commands read two u64.
    match unsafe { libc::ioctl(file.as_raw_fd(), cmd, range.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Drops the clean cached pages that touch a range.
pub fn forget_cached(file: &File, at: u64, len: u64) {
    let start = at & !(PAGE as u64 - 1);
    let end = (at + len).next_multiple_of(PAGE as u64);
    // SAFETY: advice; no memory is involved.
    unsafe {
        libc::posix_fadvise(
            file.as_raw_fd(),
            start as i64,
            (end - start) as i64,
            libc::POSIX_FADV_DONTNEED,
        )
    };
}
