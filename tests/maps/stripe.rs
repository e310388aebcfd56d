// SPDX-License-Identifier: MIT OR Apache-2.0
//! The stripe program.

use super::{any_number, check, covers, Answer, Native};
use proptest::prelude::*;
use std::cell::RefCell;
use ubd_bpf::target::Mapping;
use ubd_bpf::uapi::ubd::MAX_SLOTS;

/// The parameter of the binding, as `ubd add` makes it; the chunk is 1 << `order` sectors.
fn cookie(members: u32, order: u32) -> u64 {
    Mapping::stripe(members, 512 << order).cookie
}

/// The sectors of a stripe, dealt out one after the other.
pub fn stripe_sectors(members: u32, chunk: u64, rows: u64) -> Vec<(u32, u64)> {
    let mut have = vec![0; members as usize];
    let mut all = Vec::new();
    for _ in 0..rows {
        for (member, have) in (0u32..).zip(&mut have) {
            for _ in 0..chunk {
                all.push((member, *have));
                *have += 1;
            }
        }
    }
    all
}

#[test]
fn stripe_covers_every_sector_once() {
    let stripe = RefCell::new(Native::stripe());
    let case = (1..=MAX_SLOTS, 0u32..6, 0f64..1.0, 1u32..100);
    check(case, |(members, order, place, sectors)| {
        let all = stripe_sectors(members, 1 << order, 4);
        // The program does not know where the members end: the driver does.
        let sectors = sectors.min(all.len() as u32);
        let sector = (place * (all.len() as u32 - sectors) as f64) as u64;
        covers(&all, sector, sectors, |at, left| {
            let settings = [cookie(members, order)];
            stripe.borrow_mut().ask(&settings, at, left, members)
        })
    });
}

/// Far beyond what can be dealt out one by one, the way back must lead to the question.
#[test]
fn stripe_can_be_undone() {
    let stripe = RefCell::new(Native::stripe());
    let case = (1..=MAX_SLOTS, 0u32..=21, any_number(), 1u32..);
    check(case, |(members, order, sector, sectors)| {
        let settings = [cookie(members, order)];
        let answer = stripe
            .borrow_mut()
            .ask(&settings, sector, sectors, MAX_SLOTS);
        let Answer::Map {
            slot,
            sector: at,
            sectors: mapped,
        } = answer
        else {
            return Err(TestCaseError::fail(format!("{answer:?}")));
        };
        prop_assert!(slot < members);
        let chunk = 1u128 << order;
        let (row, within) = (u128::from(at) / chunk, u128::from(at) % chunk);
        let back = (row * u128::from(members) + u128::from(slot)) * chunk + within;
        prop_assert_eq!(back, u128::from(sector));
        prop_assert_eq!(u128::from(mapped), (chunk - within).min(sectors.into()));
        Ok(())
    });
}

#[test]
fn without_a_layout_or_its_slots_everything_is_declined() {
    let stripe = RefCell::new(Native::stripe());
    let case = (0..=MAX_SLOTS, any_number(), 1u32.., 0u32..=MAX_SLOTS);
    check(case, |(members, sector, sectors, slots)| {
        let cookie = match members {
            0 => 7 << 8,
            _ => cookie(members, 7),
        };
        let answer = stripe.borrow_mut().ask(&[cookie], sector, sectors, slots);
        let declines = members == 0 || slots < members;
        prop_assert_eq!(answer == Answer::Decline, declines);
        Ok(())
    });
}
