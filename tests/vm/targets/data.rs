// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written is read back, and lies where it should in the members.

use anyhow::{ensure, Context, Result};

use super::members::Kind::{File, Loop, Null};
use super::members::{Members, Shape};
use super::{MIB, PAGE};
use crate::support::model::Model;
use crate::support::tree::{exercise, EXT4};
use crate::support::{sh, Prog};

/// Who serves the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Daemon,
    /// The program of the target.
    Own,
    /// A program that leaves half to the daemon.
    Random,
}

/// Unloads a program that `--bpf-fastpath` has loaded, and that stays otherwise; make it before
/// the device.
pub struct Unload(pub &'static str);

impl Drop for Unload {
    fn drop(&mut self) {
        let _ = sh(format!("ubd-bpf unload {}", self.0));
    }
}

/// The program that declines half, for these members.
fn random(members: &Members) -> Result<Prog> {
    let mut set = vec![format!("nr={}", members.len())];
    match members.shape() {
        Shape::Stripe(chunk) => set.push(format!("chunk={}", chunk / 512)),
        Shape::Concat => {
            let ends: Vec<_> = members
                .ends()
                .iter()
                .map(|at| (at / 512).to_string())
                .collect();
            set.push(format!("end={}", ends.join(",")));
        }
    }
    let set: Vec<_> = set.iter().map(String::as_str).collect();
    Prog::load("members_random", &set)
}

/// Random operations, compared byte by byte with what they should have done.
pub fn model(members: &Members, by: By) -> Result<()> {
    let _stripe = matches!((by, members.shape()), (By::Own, Shape::Stripe(_)));
    let _stripe = _stripe.then_some(Unload("stripe"));
    let _random = match by {
        By::Random => Some(random(members)?),
        _ => None,
    };
    let ubd = members.device(match by {
        By::Daemon => "-q 2",
        By::Own => "-q 2 --bpf-fastpath",
        By::Random => "-q 2 --bpf-fastpath=members_random",
    })?;
    let mut model = Model::of(&ubd, members.shown(), false)?;
    let before = ubd.counters()?;
    let done = model
        .run(&ubd.node(), 7, 250)
        .context("the device is not as its model")?;
    let count = ubd.counters()?.since(&before);
    let declined = count["read_declined"] + count["write_declined"];
    let mapped = count["read_mapped"] + count["write_mapped"];
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    match by {
        By::Daemon => count.all_declined(200)?,
        By::Own => ensure!(declined == 0 && mapped > 200, "{}", count.summary()),
        By::Random => ensure!(declined > 100 && mapped > 100, "{}", count.summary()),
    }
    if by == By::Own {
        ensure!(count["splits"] > 0, "nothing was cut: {}", count.summary());
        // Once all were written to, a flush goes to all.
        ensure!(
            count["flush_slots"] > done.flushes,
            "{done:?}: {}",
            count.summary()
        );
        // Those that can do everything have nothing left to the daemon.
        if members.can_all() {
            count.all_mapped(200)?;
            ensure!(count["flush_daemon"] == 0, "{}", count.summary());
        }
    }
    drop(ubd);
    members.check(&model.bytes).context("the members")
}

pub fn ext4_on_concat() -> Result<()> {
    let lens = [
        (Loop, 16 * MIB + 512),
        (File, 20 * MIB + PAGE),
        (Null, 24 * MIB),
    ];
    ext4(&Members::sparse(Shape::Concat, true, &lens)?, By::Own)
}

pub fn ext4_on_stripe(by: By) -> Result<()> {
    let lens = [
        (Loop, 20 * MIB + 512),
        (File, 21 * MIB + PAGE),
        (Null, 22 * MIB),
    ];
    ext4(&Members::sparse(Shape::Stripe(16 * PAGE), true, &lens)?, by)
}

/// A file system that spans all members.
fn ext4(members: &Members, by: By) -> Result<()> {
    let _unload = matches!(members.shape(), Shape::Stripe(_)).then_some(Unload("stripe"));
    let ubd = match by {
        By::Daemon => members.device("")?,
        _ => members.device("--bpf-fastpath")?,
    };
    let before = ubd.counters()?;
    exercise(&EXT4, &ubd.node())?;
    let count = ubd.counters()?.since(&before);
    if by == By::Daemon {
        return count.all_declined(200);
    }
    let data = count["read_declined"] + count["write_declined"];
    ensure!(
        data == 0 && count["mapped"] > 200 && count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    ensure!(count["splits"] > 0, "nothing was cut: {}", count.summary());
    Ok(())
}
