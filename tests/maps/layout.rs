// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layouts by which the daemon serves what a program declines: against the same models as the
//! programs, so that both ways lead to the same bytes.

use super::stripe::stripe_sectors;
use super::{check, concat_sectors, covers, Answer};
use proptest::collection::vec;
use proptest::prelude::*;
use ubd_bpf::target::Layout;

/// A layout, and where each of its sectors lies.
fn any_layout() -> impl Strategy<Value = (Layout, Vec<(u32, u64)>)> {
    let concat = vec(1u64..12, 1..10).prop_map(|lengths| {
        let layout = Layout::concat(lengths.iter().map(|sectors| sectors * 512));
        (layout, concat_sectors(&lengths))
    });
    let stripe = (1u32..9, 0u32..4, 1u64..5).prop_map(|(members, order, rows)| {
        let (chunk, all) = (512 << order, stripe_sectors(members, 1 << order, rows));
        let len = rows * chunk;
        (
            Layout::Stripe {
                members,
                chunk,
                len,
            },
            all,
        )
    });
    prop_oneof![concat, stripe]
}

#[test]
fn transfers_cover_every_sector_once() {
    let case = (any_layout(), 0u64..130, 1u32..100);
    check(case, |((layout, all), sector, sectors)| {
        prop_assert_eq!(layout.size(), all.len() as u64 * 512);
        covers(&all, sector, sectors, |at, left| {
            match layout.find(at * 512) {
                None => Answer::Decline,
                Some(piece) => Answer::Map {
                    slot: piece.member,
                    sector: piece.at / 512,
                    sectors: left.min((piece.len / 512) as u32),
                },
            }
        })
    });
}

/// Between sectors, too: nothing in a layout counts in them.
#[test]
fn bytes_lie_as_their_sectors_do() {
    let case = (any_layout(), 0u64..130 * 512);
    check(case, |((layout, _), at)| {
        let (byte, sector) = (layout.find(at), layout.find(at / 512 * 512));
        prop_assert_eq!(byte.is_some(), sector.is_some());
        if let (Some(byte), Some(sector)) = (byte, sector) {
            prop_assert_eq!(byte.member, sector.member);
            prop_assert_eq!(byte.at, sector.at + at % 512);
            prop_assert_eq!(byte.at + byte.len, sector.at + sector.len);
        }
        Ok(())
    });
}

#[test]
fn shares_have_what_the_sectors_of_the_range_have() {
    let case = (any_layout(), 0u64..130, 0u64..130);
    check(case, |((layout, all), start, sectors)| {
        let start = start.min(all.len() as u64);
        let end = (start + sectors).min(all.len() as u64);
        let members = all.iter().map(|(member, _)| member + 1).max().unwrap_or(0);
        for member in 0..members {
            let share = layout.share(member, &(start * 512..end * 512));
            let share: Vec<_> = (share.start / 512..share.end / 512).collect();
            let mut want: Vec<_> = all[start as usize..end as usize]
                .iter()
                .filter(|(of, _)| *of == member)
                .map(|(_, sector)| *sector)
                .collect();
            want.sort_unstable();
            prop_assert_eq!(share, want, "member {}", member);
        }
        Ok(())
    });
}
