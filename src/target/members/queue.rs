// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving the requests of a queue from the members.
//!
//! A read or write is cut where it leaves a member or a chunk; anything else is
//! one operation a member, for its share of a range is one run. The operations
//! of a request follow one another, and no request waits for another.

use super::Members;
use crate::channel::{Backing, Handler, Op, Request, Step};
use crate::target::{Layout, Nature, Piece};
use nix::errno::Errno;

pub(super) const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
pub(super) const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// How far the request of a tag is.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// A read or write, with the bytes that are done.
    Transfer { done: u64 },
    /// A flush, discard or run of zeroes has reached this member.
    Member(u32),
    /// It has no zeroes but written ones; so many bytes of them are done.
    WriteZeroes { member: u32, done: u64 },
    /// Its zeroes are made durable.
    Durable(u32),
}

pub(super) struct MembersQueue<'a> {
    members: &'a Members,
    /// Without an end: where the device ends is the driver's to say, and may change.
    layout: Layout,
    work: Vec<Work>,
}

impl<'a> MembersQueue<'a> {
    pub(super) fn new(members: &'a Members, depth: u16) -> Self {
        MembersQueue {
            members,
            layout: members.layout.open_ended(),
            work: vec![Work::Transfer { done: 0 }; depth.into()],
        }
    }

    /// Where byte `at` of the device is.
    pub(super) fn find(&self, at: u64) -> Option<Piece> {
        self.layout.find(at)
    }

    fn next(&mut self, req: &Request, work: Work, op: Backing) -> Step {
        self.work[usize::from(req.tag)] = work;
        Step::Submit(op)
    }

    /// Goes on with a read or write of which `done` bytes are done.
    fn transfer(&mut self, req: &Request, done: u64) -> Step {
        let Some(piece) = self.find(req.start() + done) else {
            return Step::Done(Err(Errno::EIO));
        };
        let file = piece.member;
        let at = self.members.offset(file) + piece.at;
        let end = done + piece.len.min(req.len() - done);
        let buf = done as usize..end as usize;
        let op = match req.op {
            Op::Read => Backing::Read { file, at, buf },
            _ => Backing::Write {
                file,
                at,
                buf,
                dsync: req.fua,
            },
        };
        self.next(req, Work::Transfer { done }, op)
    }

    /// How much of a request is done after `bytes` more: whole blocks. A file that was cut ends
    /// anywhere, and past the page cache nothing can go on within a block. None: not even one.
    fn whole(&self, done: u64, bytes: u32) -> Option<u64> {
        let whole = bytes - bytes % self.members.geometry.logical_block;
        (whole > 0).then_some(done + u64::from(whole))
    }

    /// Goes to the first member from `first` on that has a part in the request.
    fn visit(&mut self, req: &Request, first: u32) -> Step {
        for file in first..self.members.len() {
            let (at, len) = self.share(req, file);
            let op = match (req.op, self.members.nature(file)) {
                (Op::Flush, _) => Backing::Sync { file },
                _ if len == 0 => continue,
                (Op::Discard, Nature::Block) => Backing::Discard { file, at, len },
                (op, _) => Backing::Fallocate {
                    file,
                    mode: if op == Op::WriteZeroes && req.no_unmap {
                        ZERO
                    } else {
                        PUNCH
                    },
                    at,
                    len,
                },
            };
            return self.next(req, Work::Member(file), op);
        }
        Step::Done(Ok(0))
    }

    /// First byte in the file, and length, of a member's share of a range.
    fn share(&self, req: &Request, member: u32) -> (u64, u64) {
        let range = req.start()..req.start() + req.len();
        let share = self.layout.share(member, &range);
        (
            self.members.offset(member) + share.start,
            share.end - share.start,
        )
    }

    /// Goes on with writing zeroes to a member of which `done` bytes are done.
    fn write_zeroes(&mut self, req: &Request, buf: &mut [u8], file: u32, done: u64) -> Step {
        let (at, all) = self.share(req, file);
        let len = (all - done).min(buf.len() as u64) as usize;
        if len == 0 {
            return self.visit(req, file + 1);
        }
        if done == 0 {
            buf[..len].fill(0);
        }
        let op = Backing::Write {
            file,
            at: at + done,
            buf: 0..len,
            dsync: req.fua,
        };
        self.next(req, Work::WriteZeroes { member: file, done }, op)
    }
}

impl Handler for MembersQueue<'_> {
    fn start(&mut self, req: &Request, _buf: &mut [u8]) -> Step {
        match req.op {
            Op::Read | Op::Write => self.transfer(req, 0),
            Op::Flush | Op::Discard | Op::WriteZeroes => self.visit(req, 0),
            Op::Other(_) => Step::Done(Err(Errno::EOPNOTSUPP)),
        }
    }

    fn resume(&mut self, req: &Request, buf: &mut [u8], res: Result<u32, Errno>) -> Step {
        match (self.work[usize::from(req.tag)], res) {
            (Work::Transfer { done }, Ok(bytes)) => match self.whole(done, bytes) {
                // The member ends before its window does: somebody cut it.
                None => Step::Done(Err(Errno::EIO)),
                Some(done) if done >= req.len() => Step::Done(Ok(req.len() as u32)),
                Some(done) => self.transfer(req, done),
            },
            (Work::Transfer { done }, Err(Errno::EINTR)) => self.transfer(req, done),
            (Work::WriteZeroes { member, done }, Ok(bytes)) => match self.whole(done, bytes) {
                None => Step::Done(Err(Errno::EIO)),
                Some(done) => self.write_zeroes(req, buf, member, done),
            },
            (Work::WriteZeroes { member, done }, Err(Errno::EINTR)) => {
                self.write_zeroes(req, buf, member, done)
            }
            // No such fallocate here (tmpfs cannot zero, a disk may be unable
            // to unmap to zeroes): zeroes can always be written.
            (Work::Member(member), Err(Errno::EOPNOTSUPP)) if req.op == Op::WriteZeroes => {
                self.write_zeroes(req, buf, member, 0)
            }
            (Work::Member(file), Ok(_)) if req.op == Op::WriteZeroes && req.fua => {
                self.next(req, Work::Durable(file), Backing::Sync { file })
            }
            (Work::Member(member) | Work::Durable(member), Ok(_)) => self.visit(req, member + 1),
            (_, Err(errno)) => Step::Done(Err(errno)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
