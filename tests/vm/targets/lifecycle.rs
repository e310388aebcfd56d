// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program that a concat device has for itself comes and goes with the device.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::concat3;
use crate::support::backing::same;
use crate::support::io::read_direct;
use crate::support::{sh, wait_for, Ubd};

fn signal(pid: u32, signal: i32) {
    // SAFETY: signals a process; no memory is involved.
    unsafe { libc::kill(pid as i32, signal) };
}

/// Neither registered nor pinned.
fn is_gone(name: &str) -> Result<bool> {
    let list = sh("ubd-bpf list; ls /sys/fs/bpf/ubd 2>/dev/null || true")?;
    Ok(!list.contains(name))
}

/// The device as `ubd list -J` has it.
fn listed(ubd: &Ubd) -> Result<Value> {
    let list: Value = serde_json::from_str(&sh(format!("ubd list -J {}", ubd.id()))?)?;
    Ok(list["devices"][0].clone())
}

pub fn own_program() -> Result<()> {
    let members = concat3(true)?;
    let ubd = members.device("--bpf-fastpath")?;
    let name = format!("concat-{}", ubd.id());
    ensure!(ubd.attr("ubd/program")? == name, "{name} is not bound");
    let listed = listed(&ubd)?;
    let paths: Vec<_> = (0..3).map(|n| members.path(n)).collect();
    ensure!(
        listed["members"] == serde_json::json!(paths) && listed["target"] == "concat",
        "{listed}"
    );
    // Two of them do not meet.
    let others = concat3(true)?;
    let other = others.device("--bpf-fastpath")?;
    same(
        &read_direct(other.node(), 0, 4096)?,
        &others.shown()[..4096],
    )?;
    other.del()?;
    ensure!(!is_gone(&name)?, "it went with another device");
    ubd.del()?;
    ensure!(is_gone("concat-")?, "it stayed when its device went");

    // A daemon that is asked to end cannot see the file system of the pins any more.
    let ubd = members.device("--bpf-fastpath")?;
    let pid = ubd.pid()?;
    signal(pid, libc::SIGTERM);
    wait_for("the daemon to end", Duration::from_secs(20), || {
        std::fs::metadata(format!("/proc/{pid}")).is_err()
    })?;
    ensure!(is_gone("concat-")?, "it stayed when its daemon ended");
    Ok(())
}

/// Mapped I/O goes on, `ubd list` still knows the device, and `ubd del` takes all of it.
pub fn killed() -> Result<()> {
    let members = concat3(true)?;
    let ubd = members.device("--bpf-fastpath")?;
    signal(ubd.pid()?, libc::SIGKILL);
    wait_for("state fail_io", Duration::from_secs(20), || {
        ubd.attr("ubd/state").is_ok_and(|state| state == "fail_io")
    })?;
    let before = ubd.counters()?;
    let shown = members.shown();
    same(&read_direct(ubd.node(), 0, shown.len())?, &shown).context("without a daemon")?;
    ubd.counters()?.since(&before).all_mapped(1)?;

    let listed = listed(&ubd)?;
    ensure!(
        listed["state"] == "fail_io" && listed["target"] == "concat" && listed["pid"].is_null(),
        "{listed}"
    );
    for number in 0..members.len() {
        let path = members.path(number);
        ensure!(listed["members"][number] == path.as_str(), "{listed}");
        let table = sh(format!("ubd list {}", ubd.id()))?;
        ensure!(table.contains(&path), "{table}");
    }
    ubd.del()?;
    ensure!(is_gone("concat-")?, "it stayed when its device went");
    Ok(())
}

/// A daemon that is killed by the deletion does not come to unloading.
pub fn frozen() -> Result<()> {
    let members = concat3(true)?;
    let ubd = members.device("--bpf-fastpath")?;
    let pid = ubd.pid()?;
    signal(pid, libc::SIGSTOP);
    drop(ubd); // by force, and without waiting for the daemon
    signal(pid, libc::SIGKILL);
    ensure!(is_gone("concat-")?, "it stayed when its device went");
    Ok(())
}
