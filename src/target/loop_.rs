// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop target: a window of a file or block device, one to one.

use super::{Backing, Geometry, Nature, Target};
use crate::channel::{self, Handler, Op, Request, Step};
use crate::control::Slot;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A device that shows its backing.
#[derive(Debug)]
pub struct Loop {
    backing: Backing,
}

impl Loop {
    /// Shows `backing`.
    pub fn new(backing: Backing) -> Self {
        Loop { backing }
    }
}

impl Target for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn geometry(&self) -> &Geometry {
        &self.backing.geometry
    }

    fn backing(&self) -> Option<String> {
        Some(self.backing.path.display().to_string())
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.backing.file.as_fd()]
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        vec![Slot {
            file: self.backing.file.as_fd(),
            write: !self.backing.geometry.read_only,
            direct: self.backing.direct && self.backing.nature == Nature::File,
            offset: self.backing.offset >> 9,
            sectors: self.backing.geometry.size >> 9,
            number: Some(0),
        }]
    }

    fn handler(&self, depth: u16) -> Box<dyn Handler + '_> {
        Box::new(LoopQueue {
            offset: self.backing.offset,
            nature: self.backing.nature,
            work: vec![Work::Transfer { done: 0 }; depth.into()],
        })
    }
}

/// How far the request of a tag is.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// A read or write, with the bytes that are done.
    Transfer { done: usize },
    /// Zeroes by fallocate; `FUA` then wants a sync.
    Zero,
    /// Zeroes by writing them, with the bytes that are done.
    WriteZeroes { done: u64 },
    /// One operation whose end is the end of the request.
    Last,
}

struct LoopQueue {
    /// First byte of the window.
    offset: u64,
    nature: Nature,
    work: Vec<Work>,
}

impl LoopQueue {
    fn at(&self, req: &Request) -> u64 {
        self.offset + req.start()
    }

    /// Goes on with a read or write of which `done` bytes are done.
    fn transfer(&mut self, req: &Request, done: usize) -> Step {
        self.work[usize::from(req.tag)] = Work::Transfer { done };
        let (at, buf) = (self.at(req) + done as u64, done..req.len() as usize);
        Step::Submit(match req.op {
            Op::Read => channel::Backing::Read { file: 0, at, buf },
            _ => channel::Backing::Write {
                file: 0,
                at,
                buf,
                dsync: req.fua,
            },
        })
    }

    /// Goes on with writing zeroes of which `done` bytes are done.
    fn write_zeroes(&mut self, req: &Request, buf: &mut [u8], done: u64) -> Step {
        let len = (req.len() - done).min(buf.len() as u64) as usize;
        if done == 0 {
            buf[..len].fill(0);
        }
        self.work[usize::from(req.tag)] = Work::WriteZeroes { done };
        let at = self.at(req) + done;
        Step::Submit(channel::Backing::Write {
            file: 0,
            at,
            buf: 0..len,
            dsync: req.fua,
        })
    }

    fn last(&mut self, req: &Request, op: channel::Backing) -> Step {
        self.work[usize::from(req.tag)] = Work::Last;
        Step::Submit(op)
    }
}

impl Handler for LoopQueue {
    fn start(&mut self, req: &Request, _buf: &mut [u8]) -> Step {
        let (at, len) = (self.at(req), req.len());
        match (req.op, self.nature) {
            (Op::Read | Op::Write, _) => self.transfer(req, 0),
            (Op::Flush, _) => self.last(req, channel::Backing::Sync { file: 0 }),
            (Op::Discard, Nature::File) => self.last(
                req,
                channel::Backing::Fallocate {
                    file: 0,
                    mode: PUNCH,
                    at,
                    len,
                },
            ),
            (Op::Discard, Nature::Block) => {
                self.last(req, channel::Backing::Discard { file: 0, at, len })
            }
            (Op::WriteZeroes, _) => {
                self.work[usize::from(req.tag)] = Work::Zero;
                let mode = if req.no_unmap { ZERO } else { PUNCH };
                Step::Submit(channel::Backing::Fallocate {
                    file: 0,
                    mode,
                    at,
                    len,
                })
            }
            (Op::Other(_), _) => Step::Done(Err(Errno::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, req: &Request, buf: &mut [u8], res: Result<u32, Errno>) -> Step {
        let work = self.work[usize::from(req.tag)];
        match (work, res) {
            (Work::Transfer { done }, Err(Errno::EINTR)) => self.transfer(req, done),
            // The backing ends before the window does: somebody cut it.
            (Work::Transfer { .. } | Work::WriteZeroes { .. }, Ok(0)) => {
                Step::Done(Err(Errno::EIO))
            }
            (Work::Transfer { done }, Ok(bytes)) => match done + bytes as usize {
                done if done as u64 >= req.len() => Step::Done(Ok(req.len() as u32)),
                done => self.transfer(req, done),
            },
            // No such fallocate here (tmpfs cannot zero, a disk may be unable
            // to unmap to zeroes): zeroes can always be written.
            (Work::Zero, Err(Errno::EOPNOTSUPP)) => self.write_zeroes(req, buf, 0),
            (Work::Zero, Ok(_)) if req.fua => self.last(req, channel::Backing::Sync { file: 0 }),
            (Work::WriteZeroes { done }, Err(Errno::EINTR)) => self.write_zeroes(req, buf, done),
            (Work::WriteZeroes { done }, Ok(bytes)) => match done + u64::from(bytes) {
                done if done >= req.len() => Step::Done(Ok(0)),
                done => self.write_zeroes(req, buf, done),
            },
            (Work::Zero | Work::Last, Ok(_)) => Step::Done(Ok(0)),
            (_, Err(errno)) => Step::Done(Err(errno)),
        }
    }
}

#[cfg(test)]
mod tests;
