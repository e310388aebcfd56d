// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue submits to its ring.

use super::{Queue, KIND_BACKING, KIND_FORWARD, KIND_WAIT, NODE};
use crate::channel::data::Data;
use crate::channel::signal::{FUTEX2_FLAGS, FUTEX_BITSET_MATCH_ANY};
use crate::channel::{Backing, Forward, Ticket};
use crate::uapi::{ubd, ublk, Plain};
use io_uring::{opcode, squeue, types};
use std::ops::Range;

/// `_IO(0x12, 0)` of `linux/blkdev.h`: a discard as an io_uring command.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

impl Queue<'_> {
    /// A command that does by hand what the driver could not: the pages of a tag's request become
    /// the registered buffer of that number, or are it no more.
    pub(super) fn register(&self, op: u32, kind: u64, tag: u16) -> squeue::Entry {
        self.command(op, tag, 0, tag.into(), None)
            .user_data(kind << 16 | u64::from(tag))
    }

    /// An I/O command, which gives the tag to the driver.
    pub(super) fn io_cmd(&self, op: u32, tag: u16, result: i32) -> squeue::Entry {
        // Where the driver copies nothing, there must be no address.
        let (addr, buffer) = match self.data {
            Data::Driver => (self.buffers.addr(tag).as_ptr() as u64, None),
            Data::Queue => (0, None),
            Data::Stays => (0, Some(u64::from(tag) | ublk::AUTO_BUF_REG_FALLBACK << 16)),
        };
        self.command(op, tag, result, addr, buffer)
            .user_data(tag.into())
    }

    fn command(
        &self,
        op: u32,
        tag: u16,
        result: i32,
        addr: u64,
        buffer: Option<u64>,
    ) -> squeue::Entry {
        let arg = ublk::IoCmd {
            q_id: self.id,
            tag,
            result,
            addr,
        };
        let mut area = [0u8; 16];
        area.copy_from_slice(arg.as_bytes());
        opcode::UringCmd16::new(NODE, op)
            .cmd(area)
            .addr(buffer)
            .build()
    }

    pub(super) fn forward(&mut self, tag: u16, to: &Forward) -> squeue::Entry {
        let arg = ubd::Forward {
            q_id: self.id,
            tag,
            slot: to.slot,
            sector: to.sector,
        };
        let mut area = [0u8; 16];
        area.copy_from_slice(arg.as_bytes());
        let kept = &mut self.installs[usize::from(tag)];
        *kept = to.install;
        let install = kept.as_ref().map(|install| &raw const install.0 as u64);
        let sqe = opcode::UringCmd16::new(NODE, ubd::U_IO_FORWARD)
            .cmd(area)
            .addr(install)
            .build()
            .user_data(KIND_FORWARD << 16 | u64::from(tag));
        with_len(sqe, to.sectors)
    }

    pub(super) fn backing(&mut self, tag: u16, op: &Backing) -> squeue::Entry {
        let place = |file: u32| types::Fixed(file + 1);
        let sqe = match op {
            Backing::Read { file, at, buf } => {
                let (ptr, len, registered) = self.part(tag, buf);
                match registered {
                    true => opcode::ReadFixed::new(place(*file), ptr, len, tag)
                        .offset(*at)
                        .build(),
                    false => opcode::Read::new(place(*file), ptr, len)
                        .offset(*at)
                        .build(),
                }
            }
            Backing::Write {
                file,
                at,
                buf,
                dsync,
            } => {
                let (ptr, len, pinned) = self.part(tag, buf);
                let flags = if *dsync { libc::RWF_DSYNC } else { 0 };
                match pinned {
                    true => opcode::WriteFixed::new(place(*file), ptr, len, tag)
                        .offset(*at)
                        .rw_flags(flags)
                        .build(),
                    false => opcode::Write::new(place(*file), ptr, len)
                        .offset(*at)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Backing::Sync { file } => opcode::Fsync::new(place(*file))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Backing::Fallocate {
                file,
                mode,
                at,
                len,
            } => opcode::Fallocate::new(place(*file), *len)
                .offset(*at)
                .mode(*mode)
                .build(),
            Backing::Discard { file, at, len } => {
                let mut area = [0u8; 16];
                area[..8].copy_from_slice(&len.to_ne_bytes());
                opcode::UringCmd16::new(place(*file), BLOCK_URING_CMD_DISCARD)
                    .cmd(area)
                    .addr(Some(*at))
                    .build()
            }
        };
        sqe.user_data(KIND_BACKING << 16 | u64::from(tag))
    }

    /// Address and length of a part of a tag's data, and whether they are of the ring's registered
    /// buffer with the tag's number.
    fn part(&mut self, tag: u16, buf: &Range<usize>) -> (*mut u8, u32, bool) {
        let req = self.requests[usize::from(tag)].as_ref();
        if req.is_some_and(|req| self.data.is_registered(req)) {
            // An address in a registered buffer of requests counts from 0.
            return (buf.start as *mut u8, buf.len() as u32, true);
        }
        let (ptr, len) = self.buffers.part(tag, buf);
        let pinned = self.pinned.covers(&self.ring, &self.buffers, tag, buf.end);
        (ptr, len, pinned)
    }

    pub(super) fn wait(&mut self, tag: u16, ticket: Ticket) -> squeue::Entry {
        let ticket = self.tickets[usize::from(tag)].insert(ticket);
        opcode::FutexWait::new(
            ticket.word(),
            ticket.seen(),
            FUTEX_BITSET_MATCH_ANY,
            FUTEX2_FLAGS,
        )
        .build()
        .user_data(KIND_WAIT << 16 | u64::from(tag))
    }
}

/// Sets `len` of an entry, which the library has no way to set on commands.
fn with_len(mut sqe: squeue::Entry, len: u32) -> squeue::Entry {
    /// Of `len` in `struct io_uring_sqe`.
    const LEN_AT: usize = 24;
    const { assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() % 4 == 0) };
    let sqe_bytes = (&raw mut sqe).cast::<u8>();
    // SAFETY: an entry is `repr(C)` and nothing but the kernel's structure of 64 bytes, which has
    // an integer of four bytes there.
    unsafe { sqe_bytes.add(LEN_AT).cast::<u32>().write(len) };
    sqe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_command_is_where_the_others_have_it() {
        let nop = || opcode::Nop::new().build();
        let read = opcode::Read::new(NODE, std::ptr::null_mut(), 0x1234_5678).build();
        let find = |sqe: &squeue::Entry| {
            // SAFETY: an entry is 64 plain bytes, all of which are initialised.
            unsafe { *(&raw const *sqe).cast::<[u8; 64]>() }
                .windows(4)
                .position(|bytes| bytes == 0x1234_5678u32.to_ne_bytes())
        };
        assert_eq!(find(&nop()), None);
        assert_eq!(find(&read), Some(24));
        assert_eq!(find(&with_len(nop(), 0x1234_5678)), Some(24));
    }
}
