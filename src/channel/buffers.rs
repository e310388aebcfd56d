// SPDX-License-Identifier: MIT OR Apache-2.0
//! One page-aligned buffer for each tag of a queue.

use crate::error::{Context, Error, Kind, Result};
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

/// The buffers of a queue, in one mapping whose pages come with their first use.
#[derive(Debug)]
pub(super) struct Buffers {
    base: NonNull<u8>,
    size: usize,
    tags: usize,
    leaked: bool,
}

// SAFETY: the mapping belongs to the value alone; nothing in it is bound to a thread.
unsafe impl Send for Buffers {}

impl Buffers {
    /// `tags` buffers of `size` bytes, which is a multiple of the page size.
    pub(super) fn new(tags: u16, size: u32) -> Result<Self> {
        let (tags, size) = (usize::from(tags), size as usize);
        let total = NonZeroUsize::new(tags * size)
            .ok_or_else(|| Error::new(Kind::Usage, "a queue needs tags and buffers"))?;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                None,
                total,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }
        .context(|| format!("failed to allocate {total} bytes for the buffers of a queue"))?;
        Ok(Buffers {
            base: base.cast(),
            size,
            tags,
            leaked: false,
        })
    }

    /// The size of each.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Never unmaps the buffers, for the kernel may still be writing to them.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }

    /// The address of a tag's buffer.
    pub(super) fn addr(&self, tag: u16) -> NonNull<u8> {
        assert!(usize::from(tag) < self.tags);
        // SAFETY: the tag is in range, so the address lies inside the mapping.
        unsafe { self.base.add(usize::from(tag) * self.size) }
    }

    /// A part of a tag's buffer, for a backing operation.
    pub(super) fn part(&self, tag: u16, part: &Range<usize>) -> (*mut u8, u32) {
        assert!(part.start <= part.end && part.end <= self.size);
        // SAFETY: the part was just found to lie inside the buffer.
        let ptr = unsafe { self.addr(tag).add(part.start) };
        (ptr.as_ptr(), (part.end - part.start) as u32)
    }

    /// A tag's buffer.
    ///
    /// # Safety
    /// Neither the driver nor a backing operation may have the tag.
    pub(super) unsafe fn slice(&mut self, tag: u16) -> &mut [u8] {
        // SAFETY: the buffer is mapped as long as `self` lives, `&mut self` and
        // the caller's promise make the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.addr(tag).as_ptr(), self.size) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the mapping was made by `new` with this size, and no borrow of it is left.
        let unmapped = unsafe { munmap(self.base.cast(), self.size * self.tags) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_apart() {
        let mut bufs = Buffers::new(3, 8192).unwrap();
        for tag in 0..3 {
            assert_eq!(bufs.addr(tag).as_ptr() as usize % 4096, 0);
            // SAFETY: nothing else uses the buffers of this test.
            unsafe { bufs.slice(tag) }.fill(tag as u8 + 1);
        }
        for tag in 0..3 {
            // SAFETY: as above.
            assert!(unsafe { bufs.slice(tag) }
                .iter()
                .all(|&b| b == tag as u8 + 1));
        }
    }

    #[test]
    #[should_panic]
    fn a_part_past_the_end_is_a_bug() {
        Buffers::new(1, 4096).unwrap().part(0, &(4000..4097));
    }
}
