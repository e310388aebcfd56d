// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a queue asks of a handler, and what the handler may answer.

use super::Ticket;
use crate::uapi::{ubd, ublk};
use nix::errno::Errno;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
    /// An operation that this library does not know, by its number.
    Other(u32),
}

/// One request of the driver.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Identifies the request within its queue while it lasts.
    pub tag: u16,
    pub op: Op,
    /// Durable before it completes.
    pub fua: bool,
    /// Write zeroes, but keep the blocks.
    pub no_unmap: bool,
    /// First sector on the device, of 512 bytes.
    pub sector: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u32,
}

impl Request {
    pub(super) fn new(tag: u16, desc: &ublk::IoDesc) -> Self {
        Request {
            tag,
            op: match desc.op_flags & 0xff {
                ublk::IO_OP_READ => Op::Read,
                ublk::IO_OP_WRITE => Op::Write,
                ublk::IO_OP_FLUSH => Op::Flush,
                ublk::IO_OP_DISCARD => Op::Discard,
                ublk::IO_OP_WRITE_ZEROES => Op::WriteZeroes,
                other => Op::Other(other),
            },
            fua: desc.op_flags & ublk::IO_F_FUA != 0,
            no_unmap: desc.op_flags & ublk::IO_F_NOUNMAP != 0,
            sector: desc.start_sector,
            sectors: desc.nr_sectors,
        }
    }

    /// First byte on the device.
    pub fn start(&self) -> u64 {
        self.sector << 9
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        u64::from(self.sectors) << 9
    }

    /// Whether the request has no length, as a flush.
    pub fn is_empty(&self) -> bool {
        self.sectors == 0
    }
}

/// An operation on a file of the target; `file` indexes the queue's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Into `buf` of the tag's buffer from byte `at`.
    Read {
        file: u32,
        at: u64,
        buf: Range<usize>,
    },
    /// From `buf` of the tag's buffer to byte `at`; `dsync`: durable before it ends.
    Write {
        file: u32,
        at: u64,
        buf: Range<usize>,
        dsync: bool,
    },
    /// Makes everything written durable.
    Sync { file: u32 },
    /// `fallocate(2)` with `mode`.
    Fallocate {
        file: u32,
        mode: i32,
        at: u64,
        len: u64,
    },
    /// Tells the block device that the range is unused.
    Discard { file: u32, at: u64, len: u64 },
}

/// Where the driver finds, or puts, the data of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    pub slot: u32,
    /// First sector in the slot.
    pub sector: u64,
    /// From the start of the request; what is left comes again, as a request of its own.
    pub sectors: u32,
    pub install: Option<Install>,
}

/// A word that the driver exchanges when the data is there, before the request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Install(pub(super) ubd::Install);

impl Install {
    /// Makes `word` be `value` if it is `expect` by then.
    ///
    /// # Safety
    /// The memory must be nothing but this word until the request has ended, which the next
    /// request of its tag shows.
    pub unsafe fn new(word: *const AtomicU64, expect: u64, value: u64) -> Self {
        Install(ubd::Install {
            addr: word as u64,
            expect,
            value,
        })
    }
}

/// What comes next for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It ends: bytes read or written (0 for other operations), or an error.
    Done(Result<u32, Errno>),
    /// This operation, then [`Handler::resume`].
    Submit(Backing),
    /// The driver does it, and ends the request. If it will not, [`Handler::resume`] gets its
    /// reason, which is always an error; else the handler hears no more of it.
    Forward(Forward),
    /// Nothing until the signal is raised, then [`Handler::resume`] with 0 bytes.
    Wait(Ticket),
}

/// Serves the requests of one queue, on the thread of that queue.
///
/// Neither method may block: an operation that takes time is a [`Backing`], and to
/// wait for another thread is [`Step::Wait`].
/// `buf` is the tag's whole buffer, of the device's largest request; it holds
/// the data of a write, and takes those of a read.
pub trait Handler: Send {
    /// Whether [`Self::start`] never looks at the data of a write, which then need not be there
    /// before [`Self::resume`].
    fn starts_blind(&self) -> bool {
        false
    }

    /// A request has come.
    fn start(&mut self, req: &Request, buf: &mut [u8]) -> Step;

    /// The operation of `req`'s last step has ended, with the bytes that it did.
    fn resume(&mut self, req: &Request, buf: &mut [u8], res: Result<u32, Errno>) -> Step;
}
