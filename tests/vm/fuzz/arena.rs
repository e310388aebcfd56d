// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of every kind, and addresses of none.

use std::ptr::null_mut;

use fastrand::Rng;

const PAGE: usize = 4096;
/// Pages of each kind.
const PAGES: usize = 32;

/// Pages that can be written, read, and not even that, one kind behind the other, and what else
/// there is.
pub struct Arena {
    start: u64,
    /// Mappings of others, such as descriptors or a disk's pages.
    pub others: Vec<u64>,
}

impl Arena {
    pub fn new() -> Arena {
        let len = PAGES * PAGE;
        let map = |at: *mut libc::c_void, len: usize, prot: i32, flags: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
            // SAFETY: a new mapping, or one over pages of our own that nobody points to.
            unsafe { libc::mmap(at, len, prot, flags, -1, 0) }
        };
        let start = map(null_mut(), 3 * len, libc::PROT_NONE, 0);
        assert!(start != libc::MAP_FAILED, "no memory");
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        map(start, len, rw, libc::MAP_FIXED);
        let second = start.wrapping_byte_add(len);
        map(second, len, libc::PROT_READ, libc::MAP_FIXED);
        Arena {
            start: start as u64,
            others: Vec::new(),
        }
    }

    /// Somewhere in the pages that can be written, with `len` bytes of them ahead.
    pub fn good(&self, len: usize, rng: &mut Rng) -> u64 {
        self.start + rng.u64(0..=(PAGES * PAGE - len) as u64 / 8) * 8
    }

    /// Puts bytes there and gives the address.
    pub fn put(&self, bytes: &[u8], rng: &mut Rng) -> u64 {
        let at = self.good(bytes.len(), rng);
        // SAFETY: within pages that are ours and that nobody else holds a reference to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        at
    }

    /// Any address; mostly one where something is.
    pub fn any(&self, rng: &mut Rng) -> u64 {
        let kind = (PAGES * PAGE) as u64;
        let offset = rng.u64(..kind);
        match rng.u32(0..16) {
            0..5 => self.start + offset / PAGE as u64 * PAGE as u64,
            5 => self.start + offset,
            // The last bytes that can be written, or read, and beyond.
            6 => self.start + kind - rng.u64(..64),
            7 => self.start + 2 * kind - rng.u64(..64),
            8 => self.start + kind + offset,
            9 => self.start + 2 * kind + offset,
            10 => 0,
            11 => u64::MAX - rng.u64(..8192),
            12 => 0xffff_8880_0000_0000 + rng.u64(..1 << 30),
            13 => 0x7fff_ffff_f000 - rng.u64(..8192),
            14 => rng.u64(..),
            _ if self.others.is_empty() => 0x8000_0000_0000,
            _ => self.others[rng.usize(..self.others.len())] + rng.u64(..2) * 8,
        }
    }
}
