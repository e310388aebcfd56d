// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that outlive their daemons: killed, replaced, followed by another.

mod by_hand;
mod interrupted;
mod killed;
mod killer;
mod once;
mod policies;
mod refused;
mod upgrade;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::{sh, wait_for, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("recovery/by_hand", by_hand::by_hand),
    Test::new("recovery/several_members", by_hand::several_members),
    Test::new("recovery/del_without_a_daemon", by_hand::del),
    Test::new("recovery/refused", refused::refused),
    Test::new("recovery/spoilt_records", refused::spoilt_records),
    Test::new("recovery/another_backing", refused::another_backing),
    Test::new("recovery/two_at_once", refused::two_at_once),
    Test::new("recovery/interrupted", interrupted::interrupted),
    Test::new("recovery/killed_model_disk", killed::model_disk),
    Test::new("recovery/killed_model_file", killed::model_file),
    Test::new("recovery/killed_model_user_copy", killed::model_user_copy),
    Test::new("recovery/killed_model_forward", killed::model_forward),
    Test::new("recovery/killed_model_zero_copy", killed::model_zero_copy),
    Test::new("recovery/killed_fio", killed::fio),
    Test::new(
        "recovery/killed_nothing_acknowledged_is_lost",
        killed::acknowledged,
    ),
    Test::new("recovery/once_unless_reissued", once::waits),
    Test::new("recovery/again_if_reissued", once::reissues),
    Test::new("recovery/flush_waits_or_fails", policies::flush),
    Test::new("recovery/fails_and_comes_back", policies::fails),
    Test::new("recovery/mapped_goes_on", policies::continues),
    Test::new("recovery/mapped_stops", policies::stops),
    Test::new("recovery/upgrade_under_load", upgrade::under_load),
    Test::new("recovery/upgrade_in_vain", upgrade::in_vain),
    Test::new("recovery/upgrade_that_fails", upgrade::fails_half_way),
];

/// How long things may take that happen at once.
const SOON: Duration = Duration::from_secs(20);

/// Kills the daemon of `ubd`, and waits until the driver has noticed.
fn kill_daemon(ubd: &Ubd, state: &str) -> Result<u32> {
    let pid = ubd.pid()?;
    // SAFETY: signals a process; no memory is involved.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    is_in(ubd, state).with_context(|| format!("daemon {pid} was killed"))?;
    Ok(pid)
}

/// Waits until the device is in a state.
fn is_in(ubd: &Ubd, state: &str) -> Result<()> {
    wait_for(&format!("state {state}"), SOON, || {
        ubd.attr("ubd/state").is_ok_and(|is| is == state)
    })
}

fn recover(ubd: &Ubd) -> Result<String> {
    sh(format!("ubd recover {}", ubd.id()))
}

/// A field of a device in the JSON of `ubd list`.
fn listed(ubd: &Ubd, field: &str) -> Result<serde_json::Value> {
    let list: serde_json::Value = serde_json::from_str(&sh(format!("ubd list -J {}", ubd.id()))?)?;
    Ok(list["devices"][0][field].clone())
}

fn record(ubd: &Ubd) -> String {
    format!("/run/ubd/{}.json", ubd.id())
}
