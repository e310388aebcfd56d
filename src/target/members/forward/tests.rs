// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is offered to the driver, and what is not.

use super::*;
use crate::channel::Backing;
use crate::target::members::queue::tests::{one, request, stripe, CHUNK};
use crate::target::Nature;

fn offered(step: Step) -> (u32, u64, u32) {
    match step {
        Step::Forward(to) => (to.slot, to.sector, to.sectors),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_is_a_sector_of_the_slot_and_no_offset() {
    let members = one(Nature::Block);
    let mut q = Forwarder::new(&members, 4);
    let req = request(Op::Read, 3, 8);
    assert_eq!(offered(q.start(&req, &mut [])), (0, 3, 8));
}

#[test]
fn what_leaves_a_chunk_comes_again() {
    let members = stripe(3);
    let mut q = Forwarder::new(&members, 4);
    // From the middle of chunk 2, which is the last of its row.
    let req = request(Op::Write, 20, 16);
    assert_eq!(offered(q.start(&req, &mut [])), (2, 4, 4));
    let req = request(Op::Write, 24, 12);
    assert_eq!(offered(q.start(&req, &mut [])), (0, CHUNK >> 9, 8));
}

#[test]
fn a_discard_is_offered_whole_or_not_at_all() {
    let members = stripe(3);
    let mut q = Forwarder::new(&members, 4);
    let req = request(Op::Discard, 8, 8);
    assert_eq!(offered(q.start(&req, &mut [])), (1, 0, 8));
    let req = request(Op::Discard, 8, 16);
    assert!(matches!(q.start(&req, &mut []), Step::Submit(_)));
}

#[test]
fn a_flush_is_done_here() {
    let members = one(Nature::File);
    let mut q = Forwarder::new(&members, 4);
    let req = request(Op::Flush, 0, 0);
    let sync = Backing::Sync { file: 0 };
    assert_eq!(q.start(&req, &mut []), Step::Submit(sync));
    assert_eq!(q.resume(&req, &mut [], Ok(0)), Step::Done(Ok(0)));
}

#[test]
fn what_the_driver_refuses_is_done_here() {
    let (members, mut buf) = (one(Nature::File), [0; 4096]);
    let mut q = Forwarder::new(&members, 4);
    let req = request(Op::Read, 0, 8);
    offered(q.start(&req, &mut buf));
    let step = q.resume(&req, &mut buf, Err(Errno::EINVAL));
    assert!(matches!(step, Step::Submit(Backing::Read { .. })));
    // Its end is the end of that read, and no refusal.
    assert_eq!(q.resume(&req, &mut buf, Ok(4096)), Step::Done(Ok(4096)));
    let step = q.resume(&req, &mut buf, Err(Errno::EIO));
    assert_eq!(step, Step::Done(Err(Errno::EIO)));
}

#[test]
fn an_accepted_offer_says_nothing_of_the_next_request() {
    let members = one(Nature::File);
    let mut q = Forwarder::new(&members, 4);
    offered(q.start(&request(Op::Read, 0, 8), &mut []));
    let flush = request(Op::Flush, 0, 0);
    assert!(matches!(q.start(&flush, &mut []), Step::Submit(_)));
    let failed = Err(Errno::EIO);
    assert_eq!(q.resume(&flush, &mut [], failed), Step::Done(failed));
}
