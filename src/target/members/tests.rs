// SPDX-License-Identifier: MIT OR Apache-2.0
//! What members make: sizes, limits, and what is refused.

use super::*;
use crate::target::OpenOptions;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> Backing {
    Backing::open(&OpenOptions {
        path: path.into(),
        offset: 0,
        size_limit: None,
        block: None,
        read_only: false,
        direct: None,
    })
    .unwrap()
}

fn members(lens: &[u64]) -> Vec<Backing> {
    let member = |len: &u64| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(*len).unwrap();
        open(file.path())
    };
    lens.iter().map(member).collect()
}

#[test]
fn a_concatenation_is_as_long_as_all() {
    let concat = Members::concat(members(&[MIB, 3 * MIB + 700, 512])).unwrap();
    assert_eq!(concat.geometry.size, 4 * MIB + 1024);
    assert_eq!(concat.mapping().settings, ["nr=3", "slot_len=2048,6145,1"]);
    let sectors: Vec<_> = concat.slots().iter().map(|slot| slot.sectors).collect();
    assert_eq!(sectors, [2048, 6145, 1]);
}

#[test]
fn the_coarsest_member_decides_the_block() {
    let mut members = members(&[MIB + 512, MIB]);
    members[1].geometry.logical_block = 4096;
    let concat = Members::concat(members).unwrap();
    assert_eq!(concat.geometry.logical_block, 4096);
    assert_eq!(concat.geometry.size, 2 * MIB);
}

#[test]
fn a_stripe_is_as_long_as_the_smallest_allows() {
    let stripe = Members::stripe(members(&[5 * MIB, MIB + 4096, 2 * MIB]), 64 << 10).unwrap();
    let geometry = &stripe.geometry;
    assert_eq!(geometry.size, 3 * MIB);
    assert_eq!((geometry.io_min, geometry.io_opt), (65536, None));
    assert_eq!(geometry.chunk, Some(65536));
    assert_eq!(stripe.mapping().cookie, 3 | 7 << 8);
    assert!(stripe.slots().iter().all(|slot| slot.sectors == 2048));

    let stripe = Members::stripe(members(&[MIB; 4]), 4096).unwrap();
    assert_eq!(stripe.geometry.io_opt, Some(16384));
}

#[test]
fn a_member_that_cannot_discard_speaks_for_all() {
    let mut members = members(&[MIB; 2]);
    assert!(common(&members).discard.is_some());
    members[1].geometry.discard = None;
    assert_eq!(common(&members).discard, None);
}

fn refused(result: Result<Members>, why: &str) {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), Kind::Usage);
    assert!(err.to_string().contains(why), "{err}");
}

#[test]
fn what_makes_no_device_is_refused() {
    let one = || members(&[MIB]);
    refused(Members::concat(one()), "2 to 64 files, not 1");
    refused(Members::stripe(one(), 4096), "2 to 64 files, not 1");
    refused(Members::concat(members(&[512; 65])), "not 65");
    for chunk in [0, 2048, 5000, 12288, 1 << 31, 1 << 32] {
        let result = Members::stripe(members(&[MIB; 2]), chunk);
        refused(result, "a power of two from 4KiB");
    }
    let result = Members::stripe(members(&[MIB, 4096]), 8192);
    refused(result, "its 4096 bytes are less than a chunk of 8192 bytes");
    let mut coarse = members(&[MIB, 512]);
    coarse[0].geometry.logical_block = 4096;
    refused(Members::concat(coarse), "less than a sector of 4096 bytes");
}

#[test]
fn the_same_file_twice_is_refused_by_any_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(MIB).unwrap();
    let dir = tempfile::tempdir_in(file.path().parent().unwrap()).unwrap();
    let other = dir.path().join("other");
    std::fs::hard_link(file.path(), &other).unwrap();
    let both = || vec![open(file.path()), open(&other)];
    refused(Members::concat(both()), "share bytes");
    refused(Members::stripe(both(), 4096), "share bytes");
}
