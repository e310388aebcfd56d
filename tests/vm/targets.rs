// SPDX-License-Identifier: MIT OR Apache-2.0
//! The targets of several members, concat and stripe: the daemon's way and the kernel's way lead to
//! the same bytes.

pub mod by_hand;
pub mod data;
mod lifecycle;
mod members;
mod refused;

use anyhow::{ensure, Result};

use crate::support::backing::same;
use crate::support::io::read_direct;
use crate::support::Test;
use data::By;
use members::Kind::{File, Loop, Null};
use members::{Members, Shape};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// Uneven to all but the sector.
const ODD: usize = 3 * 512;

/// Members whose ends fit nothing but the sector.
fn concat3(direct: bool) -> Result<Members> {
    let members = [
        (Loop, 4 * MIB + ODD),
        (File, 3 * MIB + 512),
        (Null, 4 * MIB),
    ];
    Members::new(Shape::Concat, direct, &members)
}

/// All of them can do all operations; the ends are lost in part.
fn stripe2() -> Result<Members> {
    let members = [(File, 6 * MIB + ODD), (Loop, 5 * MIB + 9 * PAGE + 512)];
    Members::new(Shape::Stripe(16 * PAGE), true, &members)
}

fn stripe3(direct: bool) -> Result<Members> {
    let members = [
        (Null, 4 * MIB),
        (File, 3 * MIB + ODD),
        (Loop, 5 * MIB + PAGE),
    ];
    Members::new(Shape::Stripe(PAGE), direct, &members)
}

pub const TESTS: &[Test] = &[
    Test::new("targets/concat3_declined", || {
        data::model(&concat3(true)?, By::Daemon)
    }),
    Test::new("targets/concat3_mapped", || {
        data::model(&concat3(true)?, By::Own)
    }),
    Test::new("targets/concat3_buffered_mapped", || {
        data::model(&concat3(false)?, By::Own)
    }),
    Test::new("targets/concat3_random", || {
        data::model(&concat3(true)?, By::Random)
    }),
    Test::new("targets/stripe2_declined", || {
        data::model(&stripe2()?, By::Daemon)
    }),
    Test::new("targets/stripe2_mapped", || {
        data::model(&stripe2()?, By::Own)
    }),
    Test::new("targets/stripe2_random", || {
        data::model(&stripe2()?, By::Random)
    }),
    Test::new("targets/stripe3_declined", || {
        data::model(&stripe3(true)?, By::Daemon)
    }),
    Test::new("targets/stripe3_mapped", || {
        data::model(&stripe3(true)?, By::Own)
    }),
    Test::new("targets/stripe3_buffered_mapped", || {
        data::model(&stripe3(false)?, By::Own)
    }),
    Test::new("targets/stripe3_random", || {
        data::model(&stripe3(true)?, By::Random)
    }),
    Test::new("targets/stripe_limits_and_splits", limits_and_splits),
    Test::new("targets/ext4_on_concat", data::ext4_on_concat),
    Test::new("targets/ext4_on_stripe_mapped", || {
        data::ext4_on_stripe(By::Own)
    }),
    Test::new("targets/ext4_on_stripe_declined", || {
        data::ext4_on_stripe(By::Daemon)
    }),
    Test::new("targets/a_read_only_member", refused::read_only_member),
    Test::new("targets/what_makes_no_device", refused::no_device),
    Test::new("targets/a_member_that_is_in_use", refused::busy_member),
    Test::new(
        "targets/memory_that_may_not_be_locked",
        refused::locked_memory,
    ),
    Test::new("targets/own_program_comes_and_goes", lifecycle::own_program),
    Test::new(
        "targets/own_program_outlives_a_killed_daemon",
        lifecycle::killed,
    ),
    Test::new(
        "targets/own_program_goes_with_a_frozen_daemon",
        lifecycle::frozen,
    ),
];

/// The front tells of chunks and cuts nothing by itself: only what crosses a chunk is split.
fn limits_and_splits() -> Result<()> {
    let chunk = 16 * PAGE;
    let members = Members::new(
        Shape::Stripe(chunk),
        true,
        &[(Loop, 2 * MIB), (Loop, 2 * MIB)],
    )?;
    let _unload = data::Unload("stripe");
    let ubd = members.device("--bpf-fastpath")?;
    for (limit, bytes) in [
        ("chunk_sectors", chunk / 512),
        ("minimum_io_size", chunk),
        ("optimal_io_size", 2 * chunk),
    ] {
        let is = ubd.attr(&format!("queue/{limit}"))?;
        ensure!(
            is == bytes.to_string(),
            "{limit} is {is} instead of {bytes}"
        );
    }
    let shown = members.shown();
    for (at, len, pieces) in [
        (0, chunk, 1),
        (chunk - 512, 1024, 2),
        (PAGE, chunk, 2),
        (0, 8 * chunk, 8),
        (512, 8 * chunk, 9),
    ] {
        let before = ubd.counters()?;
        let is = read_direct(ubd.node(), at as u64, len)?;
        let count = ubd.counters()?.since(&before);
        same(&is, &shown[at..at + len])?;
        count.all_mapped(pieces)?;
        ensure!(
            count["read_mapped"] == pieces && count["splits"] == pieces - 1,
            "{len} bytes at {at} should be {pieces} pieces: {}",
            count.summary()
        );
    }
    drop(ubd);

    // Three chunks are no power of two: no width is told rather than a wrong one.
    let members = stripe3(true)?;
    let ubd = members.device("")?;
    let is = ubd.attr("queue/optimal_io_size")?;
    ensure!(is == "0", "optimal_io_size of three is {is}");
    Ok(())
}
