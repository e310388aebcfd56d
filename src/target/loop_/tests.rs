// SPDX-License-Identifier: MIT OR Apache-2.0
//! The loop handler's answers, step by step.

use super::*;
use crate::channel::Backing as B;

const OFFSET: u64 = 1 << 20;

fn queue(nature: Nature) -> LoopQueue {
    LoopQueue {
        offset: OFFSET,
        nature,
        work: vec![Work::Last; 4],
    }
}

fn request(op: Op, sector: u64, sectors: u32) -> Request {
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
    let (mut q, mut buf) = (queue(Nature::File), [0; 8192]);
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
fn a_short_transfer_goes_on_where_it_stopped() {
    for op in [Op::Read, Op::Write] {
        let (mut q, mut buf) = (queue(Nature::File), [0; 4096]);
        let req = request(op, 0, 8);
        q.start(&req, &mut buf);
        let rest = q.resume(&req, &mut buf, Ok(1000));
        match rest {
            Step::Submit(B::Read { at, buf, .. } | B::Write { at, buf, .. }) => {
                assert_eq!((at, buf), (OFFSET + 1000, 1000..4096));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(q.resume(&req, &mut buf, Ok(3096)), Step::Done(Ok(4096)));
    }
}

#[test]
fn the_end_of_the_backing_is_an_error() {
    let (mut q, mut buf) = (queue(Nature::File), [0; 4096]);
    let req = request(Op::Read, 0, 8);
    q.start(&req, &mut buf);
    assert_eq!(q.resume(&req, &mut buf, Ok(0)), Step::Done(Err(Errno::EIO)));
}

#[test]
fn fua_reaches_every_part_of_a_write() {
    let (mut q, mut buf) = (queue(Nature::Block), [0; 4096]);
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
fn discards_fit_the_backing() {
    let mut buf = [0; 4096];
    let req = request(Op::Discard, 8, 1 << 20);
    let punch = B::Fallocate {
        file: 0,
        mode: PUNCH,
        at: OFFSET + 4096,
        len: 1 << 29,
    };
    assert_eq!(
        queue(Nature::File).start(&req, &mut buf),
        Step::Submit(punch)
    );
    let discard = B::Discard {
        file: 0,
        at: OFFSET + 4096,
        len: 1 << 29,
    };
    assert_eq!(
        queue(Nature::Block).start(&req, &mut buf),
        Step::Submit(discard)
    );
}

#[test]
fn zeroes_are_written_where_fallocate_cannot() {
    let (mut q, mut buf) = (queue(Nature::File), [7; 4096]);
    let req = Request {
        no_unmap: true,
        ..request(Op::WriteZeroes, 0, 12)
    };
    let first = q.start(&req, &mut buf);
    assert!(
        matches!(first, Step::Submit(B::Fallocate { mode: ZERO, .. })),
        "{first:?}"
    );
    let mut step = q.resume(&req, &mut buf, Err(Errno::EOPNOTSUPP));
    assert!(buf.iter().all(|&b| b == 0));
    let mut ranges = Vec::new();
    while let Step::Submit(B::Write { at, buf: part, .. }) = step {
        ranges.push((at - OFFSET, part.len()));
        step = q.resume(&req, &mut buf, Ok(part.len() as u32));
    }
    assert_eq!(ranges, [(0, 4096), (4096, 2048)]);
    assert_eq!(step, Step::Done(Ok(0)));
}

#[test]
fn zeroes_with_fua_are_synced() {
    let (mut q, mut buf) = (queue(Nature::File), [0; 4096]);
    let req = Request {
        fua: true,
        ..request(Op::WriteZeroes, 0, 8)
    };
    q.start(&req, &mut buf);
    assert_eq!(
        q.resume(&req, &mut buf, Ok(0)),
        Step::Submit(B::Sync { file: 0 })
    );
    assert_eq!(q.resume(&req, &mut buf, Ok(0)), Step::Done(Ok(0)));
}

#[test]
fn errors_keep_their_errno() {
    let (mut q, mut buf) = (queue(Nature::File), [0; 4096]);
    let req = request(Op::Write, 0, 8);
    q.start(&req, &mut buf);
    assert_eq!(
        q.resume(&req, &mut buf, Err(Errno::ENOSPC)),
        Step::Done(Err(Errno::ENOSPC))
    );
}
