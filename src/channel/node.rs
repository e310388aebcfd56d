// SPDX-License-Identifier: MIT OR Apache-2.0
//! The character node of a device, and the descriptors mapped from it.

use crate::control::char_node;
use crate::error::{Context, Result};
use crate::uapi::ublk;
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use nix::unistd::{sysconf, SysconfVar};
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

/// The open character node of a device; the driver lets one process have it.
#[derive(Debug)]
pub struct CharNode {
    file: File,
}

impl CharNode {
    /// Opens `/dev/ubdcN`.
    pub fn open(id: u32) -> Result<Self> {
        let path = char_node(id);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context(|| format!("failed to open `{path}`"))?;
        Ok(CharNode { file })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Maps the descriptors of queue `queue`, which has `depth` tags.
    pub(super) fn descriptors(&self, queue: u16, depth: u16) -> Result<Descriptors> {
        let page = match sysconf(SysconfVar::PAGE_SIZE) {
            Ok(Some(page)) => page as usize,
            _ => 4096,
        };
        let bytes =
            |tags: u16| (usize::from(tags) * size_of::<ublk::IoDesc>()).next_multiple_of(page);
        // The queues lie as far apart as the deepest one may be.
        let at = ublk::CMD_BUF_OFFSET as usize + usize::from(queue) * bytes(ublk::MAX_QUEUE_DEPTH);
        let len = NonZeroUsize::MIN.saturating_add(bytes(depth) - 1);
        // SAFETY: a new shared read-only mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ,
                MapFlags::MAP_SHARED,
                &self.file,
                at as i64,
            )
        }
        .context(|| format!("failed to map the descriptors of queue {queue}"))?;
        Ok(Descriptors {
            base,
            len: len.get(),
            depth,
        })
    }
}

impl AsFd for CharNode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The descriptors of a queue, which the driver writes and we read.
#[derive(Debug)]
pub(super) struct Descriptors {
    base: NonNull<c_void>,
    len: usize,
    depth: u16,
}

impl Descriptors {
    /// The descriptor of `tag`, which the driver has just handed over.
    pub(super) fn read(&self, tag: u16) -> ublk::IoDesc {
        assert!(tag < self.depth);
        // SAFETY: the tag is in range, so its descriptor lies inside the mapping, which begins with a
        // page, and any bytes make one. Volatile, for the driver writes them; as words, for
        // otherwise every byte would be an access of its own.
        unsafe {
            self.base
                .cast::<ublk::IoDesc>()
                .add(tag.into())
                .read_volatile()
        }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: made by `descriptors` with this length, and nothing borrows from it.
        let unmapped = unsafe { munmap(self.base, self.len) };
        debug_assert!(unmapped.is_ok());
    }
}
