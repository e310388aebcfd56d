// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving the requests of a queue by saying where they go: the driver does the reads, writes and
//! discards on the members' slots. The rest, and what the driver will not do, is done here.

use super::queue::MembersQueue;
use super::Members;
use crate::channel::{Forward, Handler, Op, Request, Step};
use nix::errno::Errno;

pub(super) struct Forwarder<'a> {
    by_hand: MembersQueue<'a>,
    /// What the driver has not accepted yet, by tag.
    offered: Vec<bool>,
}

impl<'a> Forwarder<'a> {
    pub(super) fn new(members: &'a Members, depth: u16) -> Self {
        Forwarder {
            by_hand: MembersQueue::new(members, depth),
            offered: vec![false; depth.into()],
        }
    }

    /// Where the first part of the request is; the driver brings the rest again.
    fn place(&self, req: &Request) -> Option<Forward> {
        let piece = self.by_hand.find(req.start())?;
        let whole = piece.len >= req.len();
        match req.op {
            Op::Read | Op::Write => {}
            // Long ones would come again for every chunk of a stripe.
            Op::Discard if whole => {}
            _ => return None,
        }
        Some(Forward {
            // Slots are numbered as the members are, and each shows its window.
            slot: piece.member,
            sector: piece.at >> 9,
            sectors: (piece.len.min(req.len()) >> 9) as u32,
            install: None,
        })
    }
}

impl Handler for Forwarder<'_> {
    /// Writes are offered first, all of them.
    fn starts_blind(&self) -> bool {
        true
    }

    fn start(&mut self, req: &Request, buf: &mut [u8]) -> Step {
        match self.place(req) {
            Some(place) => {
                self.offered[usize::from(req.tag)] = true;
                Step::Forward(place)
            }
            None => {
                // What the driver accepts never comes back here.
                self.offered[usize::from(req.tag)] = false;
                self.by_hand.start(req, buf)
            }
        }
    }

    fn resume(&mut self, req: &Request, buf: &mut [u8], res: Result<u32, Errno>) -> Step {
        // The driver will not: the slot is gone, or the disk cannot discard.
        if std::mem::take(&mut self.offered[usize::from(req.tag)]) {
            return self.by_hand.start(req, buf);
        }
        self.by_hand.resume(req, buf, res)
    }
}

#[cfg(test)]
mod tests;
