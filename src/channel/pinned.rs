// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tags' buffers as registered buffers of the ring.
//!
//! For direct I/O the kernel looks up and pins the pages of a buffer, each time anew, unless the
//! buffer is registered. That keeps its pages in memory, so only as much of a buffer is registered
//! as its tag has used so far, rounded up: an idle device costs nothing, and a busy one no more than
//! twice what it has touched and locked anyway.

use super::buffers::Buffers;
use io_uring::IoUring;

/// How much of each tag's buffer is registered, under the tag's number.
#[derive(Debug)]
pub(super) struct Pinned {
    lens: Vec<usize>,
    /// None are registered any more: the kernel or a limit on locked memory forbids it.
    given_up: bool,
}

impl Pinned {
    /// Never registers any: the numbers mean something else in the ring.
    pub(super) fn never(tags: u16) -> Self {
        Pinned {
            lens: vec![0; tags.into()],
            given_up: true,
        }
    }

    /// Makes room in `ring` for the buffers of `tags` tags.
    pub(super) fn new(ring: &IoUring, tags: u16) -> Self {
        let room = ring.submitter().register_buffers_sparse(tags.into());
        if let Err(err) = &room {
            log::debug!("no room for registered buffers: {err}");
        }
        Pinned {
            given_up: room.is_err(),
            ..Pinned::never(tags)
        }
    }

    /// Whether the first `len` bytes of a tag's buffer are registered, which this sees to where it
    /// can. No operation of the tag may be under way.
    pub(super) fn covers(
        &mut self,
        ring: &IoUring,
        buffers: &Buffers,
        tag: u16,
        len: usize,
    ) -> bool {
        len <= self.lens[usize::from(tag)] || self.grow(ring, buffers, tag, len)
    }

    #[cold]
    fn grow(&mut self, ring: &IoUring, buffers: &Buffers, tag: u16, len: usize) -> bool {
        if self.given_up {
            return false;
        }
        let len = len.next_power_of_two().clamp(4096, buffers.size());
        let (base, _) = buffers.part(tag, &(0..len));
        let part = libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        };
        // SAFETY: the part is mapped as long as the ring lives, and should it be unmapped all the
        // same, the kernel keeps the pages.
        let done = unsafe {
            ring.submitter()
                .register_buffers_update(tag.into(), &[part], None)
        };
        match done {
            Ok(()) => {
                self.lens[usize::from(tag)] = len;
                true
            }
            Err(err) => {
                log::debug!("buffers are not registered any more: {err}");
                self.given_up = true;
                false
            }
        }
    }
}
