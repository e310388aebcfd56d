// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handler's answers, step by step.

use super::*;
use crate::channel::Backing as B;
use crate::target::{Backing as Member, Layout, OpenOptions};

const OFFSET: u64 = 1 << 20;
pub(in crate::target::members) const CHUNK: u64 = 4096;

/// A file behind a device, `len` bytes of it from [`OFFSET`] on.
fn member(len: u64, nature: Nature) -> Member {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(OFFSET + len).unwrap();
    let mut member = Member::open(&OpenOptions {
        path: file.path().into(),
        offset: OFFSET,
        size_limit: None,
        block: None,
        read_only: false,
        direct: None,
    })
    .unwrap();
    member.nature = nature;
    member
}

pub(in crate::target::members) fn one(nature: Nature) -> Members {
    Members::one(member(1 << 30, nature))
}

pub(in crate::target::members) fn stripe(members: u32) -> Members {
    let member = |_| member(1 << 20, Nature::File);
    let stripe = Members::stripe((0..members).map(member).collect(), CHUNK).unwrap();
    assert!(matches!(stripe.layout, Layout::Stripe { .. }));
    stripe
}

fn queue(members: &Members) -> MembersQueue<'_> {
    MembersQueue::new(members, 4)
}

pub(in crate::target::members) fn request(op: Op, sector: u64, sectors: u32) -> Request {
    Request {
        tag: 2,
        op,
        fua: false,
        no_unmap: false,
        sector,
        sectors,
    }
}

#[test]
fn a_read_lands_in_the_window() {
    let (members, mut buf) = (one(Nature::File), [0; 8192]);
    let mut q = queue(&members);
    let req = request(Op::Read, 3, 8);
    let want = B::Read {
        file: 0,
        at: OFFSET + 1536,
        buf: 0..4096,
    };
    assert_eq!(q.start(&req, &mut buf), Step::Submit(want));
    assert_eq!(q.resume(&req, &mut buf, Ok(4096)), Step::Done(Ok(4096)));
}

#[test]
fn a_short_transfer_goes_on_at_the_block_where_it_stopped() {
    for op in [Op::Read, Op::Write] {
        let (members, mut buf) = (one(Nature::File), [0; 4096]);
        let mut q = queue(&members);
        let req = request(op, 0, 8);
        q.start(&req, &mut buf);
        let rest = q.resume(&req, &mut buf, Ok(1000));
        match rest {
            Step::Submit(B::Read { at, buf, .. } | B::Write { at, buf, .. }) => {
                assert_eq!((at, buf), (OFFSET + 512, 512..4096));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(q.resume(&req, &mut buf, Ok(3584)), Step::Done(Ok(4096)));
    }
}

#[test]
fn the_end_of_the_backing_is_an_error() {
    for last in [0, 511] {
        let (members, mut buf) = (one(Nature::File), [0; 4096]);
        let mut q = queue(&members);
        let req = request(Op::Read, 0, 8);
        q.start(&req, &mut buf);
        q.resume(&req, &mut buf, Ok(1536));
        let end = q.resume(&req, &mut buf, Ok(last));
        assert_eq!(end, Step::Done(Err(Errno::EIO)));
    }
}

#[test]
fn a_transfer_is_cut_at_chunks_and_a_short_one_within() {
    let (members, mut buf) = (stripe(3), [0; 16384]);
    let mut q = queue(&members);
    // From the middle of chunk 2, which is the last of its row, into chunk 4.
    let req = request(Op::Read, 20, 16);
    let mut step = q.start(&req, &mut buf);
    let mut pieces = Vec::new();
    for done in [2048, 1000, 3584, 2048] {
        let Step::Submit(B::Read {
            file,
            at,
            buf: part,
        }) = step
        else {
            panic!("{step:?}");
        };
        pieces.push((file, at - OFFSET, part.start, part.end));
        step = q.resume(&req, &mut buf, Ok(done));
    }
    assert_eq!(
        pieces,
        [
            (2, 2048, 0, 2048),
            (0, 4096, 2048, 6144),
            (0, 4608, 2560, 6144),
            (1, 4096, 6144, 8192),
        ]
    );
    assert_eq!(step, Step::Done(Ok(8192)));
}

#[test]
fn fua_reaches_every_part_of_a_write() {
    let (members, mut buf) = (one(Nature::Block), [0; 4096]);
    let mut q = queue(&members);
    let req = Request {
        fua: true,
        ..request(Op::Write, 0, 8)
    };
    for step in [q.start(&req, &mut buf), q.resume(&req, &mut buf, Ok(512))] {
        assert!(
            matches!(step, Step::Submit(B::Write { dsync: true, .. })),
            "{step:?}"
        );
    }
}

#[test]
fn a_flush_goes_to_all_members() {
    let (members, mut buf) = (stripe(3), [0; 4096]);
    let mut q = queue(&members);
    let req = request(Op::Flush, 0, 0);
    let mut step = q.start(&req, &mut buf);
    for file in 0..3 {
        assert_eq!(step, Step::Submit(B::Sync { file }));
        step = q.resume(&req, &mut buf, Ok(0));
    }
    assert_eq!(step, Step::Done(Ok(0)));
}

#[test]
fn discards_fit_the_backing() {
    let mut buf = [0; 4096];
    let req = request(Op::Discard, 8, 1 << 20);
    let (at, len) = (OFFSET + 4096, 1 << 29);
    let punch = B::Fallocate {
        file: 0,
        mode: PUNCH,
        at,
        len,
    };
    assert_eq!(
        queue(&one(Nature::File)).start(&req, &mut buf),
        Step::Submit(punch)
    );
    let discard = B::Discard { file: 0, at, len };
    assert_eq!(
        queue(&one(Nature::Block)).start(&req, &mut buf),
        Step::Submit(discard)
    );
}

#[test]
fn a_discard_is_one_operation_a_member() {
    let (members, mut buf) = (stripe(3), [0; 4096]);
    let mut q = queue(&members);
    // The second half of chunk 1 up to the first half of chunk 6: member 0 has 3 and half of 6,
    // member 1 half of 1 and 4, member 2 has 2 and 5.
    let req = request(Op::Discard, 12, 40);
    let mut step = q.start(&req, &mut buf);
    let mut pieces = Vec::new();
    while let Step::Submit(B::Fallocate { file, at, len, .. }) = step {
        pieces.push((file, at - OFFSET, len));
        step = q.resume(&req, &mut buf, Ok(0));
    }
    assert_eq!(pieces, [(0, 4096, 6144), (1, 2048, 6144), (2, 0, 8192)]);
    assert_eq!(step, Step::Done(Ok(0)));

    // One chunk alone leaves the others in peace.
    let req = request(Op::Discard, 8, 8);
    let step = q.start(&req, &mut buf);
    assert!(
        matches!(step, Step::Submit(B::Fallocate { file: 1, .. })),
        "{step:?}"
    );
    assert_eq!(q.resume(&req, &mut buf, Ok(0)), Step::Done(Ok(0)));
}

#[test]
fn zeroes_are_written_where_fallocate_cannot() {
    let (members, mut buf) = (stripe(2), [7; 4096]);
    let mut q = queue(&members);
    let req = Request {
        no_unmap: true,
        ..request(Op::WriteZeroes, 0, 20)
    };
    let first = q.start(&req, &mut buf);
    assert!(
        matches!(
            first,
            Step::Submit(B::Fallocate {
                file: 0,
                mode: ZERO,
                ..
            })
        ),
        "{first:?}"
    );
    // Member 0 has 6144 of the bytes, in two parts for the buffer; member 1 the other 4096.
    let mut step = q.resume(&req, &mut buf, Err(Errno::EOPNOTSUPP));
    assert!(buf.iter().all(|&b| b == 0));
    let mut ranges = Vec::new();
    while let Step::Submit(B::Write {
        file,
        at,
        buf: part,
        ..
    }) = step
    {
        ranges.push((file, at - OFFSET, part.len()));
        step = q.resume(&req, &mut buf, Ok(part.len() as u32));
    }
    assert_eq!(ranges, [(0, 0, 4096), (0, 4096, 2048)]);
    assert!(
        matches!(
            step,
            Step::Submit(B::Fallocate {
                file: 1,
                len: 4096,
                ..
            })
        ),
        "{step:?}"
    );
    assert_eq!(q.resume(&req, &mut buf, Ok(0)), Step::Done(Ok(0)));
}

#[test]
fn zeroes_with_fua_are_synced() {
    let (members, mut buf) = (stripe(2), [0; 4096]);
    let mut q = queue(&members);
    let req = Request {
        fua: true,
        ..request(Op::WriteZeroes, 0, 16)
    };
    let mut step = q.start(&req, &mut buf);
    for file in 0..2 {
        assert!(
            matches!(step, Step::Submit(B::Fallocate { .. })),
            "{step:?}"
        );
        let sync = q.resume(&req, &mut buf, Ok(0));
        assert_eq!(sync, Step::Submit(B::Sync { file }));
        step = q.resume(&req, &mut buf, Ok(0));
    }
    assert_eq!(step, Step::Done(Ok(0)));
}

#[test]
fn errors_keep_their_errno() {
    let (members, mut buf) = (one(Nature::File), [0; 4096]);
    let mut q = queue(&members);
    let req = request(Op::Write, 0, 8);
    q.start(&req, &mut buf);
    assert_eq!(
        q.resume(&req, &mut buf, Err(Errno::ENOSPC)),
        Step::Done(Err(Errno::ENOSPC))
    );
}

#[test]
fn what_lies_behind_the_end_is_served() {
    let (members, mut buf) = (stripe(2), [0; 4096]);
    let req = request(Op::Read, 4096, 8);
    // The device has been resized since.
    let step = queue(&members).start(&req, &mut buf);
    assert!(matches!(step, Step::Submit(Backing::Read { at, .. }) if at > 1 << 20));
}
