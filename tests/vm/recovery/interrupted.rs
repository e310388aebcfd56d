// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever starts the next daemon loses patience, while the old one's last request is with a disk.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{is_in, listed, recover, SOON};
use crate::support::io::read_direct;
use crate::support::{sh, slowness, wait_for, Background, Dm, RamDisk, Ubd};

/// A device whose daemon is dead, and has a read in a disk that stands still.
struct Stuck {
    ubd: Ubd,
    read: Background,
    old: u32,
}

fn stuck(ubd: Ubd, valve: &Dm) -> Result<Stuck> {
    valve.suspend()?;
    let mut read = Background::start(format!(
        "dd if={} of=/dev/null bs=4k count=1 iflag=direct",
        ubd.node()
    ))?;
    sleep(Duration::from_millis(500) * slowness());
    ensure!(read.is_running(), "the read has not met the suspended disk");
    let old = ubd.pid()?;
    // As long as it lives `ubd recover` has nothing to wait for.
    sh(format!(
        "kill -9 {old}; while kill -0 {old} 2>/dev/null; do sleep 0.1; done"
    ))?;
    Ok(Stuck { ubd, read, old })
}

/// Interrupts `ubd recover` with `options`, which is process $pid, as soon as `waits` shows that it
/// waits, and lets the disk go on when `heard` shows that it knows.
fn interrupt(ubd: &Ubd, options: &str, waits: &str, heard: &str, valve: &Dm) -> Result<()> {
    let pid = "/tmp/interrupted.pid";
    let command = format!("echo $$ >{pid}; exec ubd recover {options} {}", ubd.id());
    let recovering = Background::start(format!("rm -f {pid}; {command}"))?;
    let shows = |what: &str, script: &str| {
        wait_for(what, SOON, || {
            sh(format!("pid=$(cat {pid}) && {script}")).is_ok()
        })
    };
    let interrupted = shows("`ubd recover` to wait for the old daemon", waits)
        .and_then(|()| sh(format!("kill -INT $(cat {pid})")))
        .and_then(|_| shows("the signal to arrive", heard));
    valve.resume()?;
    interrupted?;
    let ended = recovering.finish();
    ensure!(ended.is_err(), "it was interrupted and says nothing");
    Ok(())
}

/// The read fails, or is done; the device serves again.
fn has_survived(stuck: Stuck) -> Result<Ubd> {
    let Stuck { ubd, read, old } = stuck;
    // Until the old one's last request has ended the device is its.
    wait_for("another daemon", SOON, || {
        ubd.pid().is_ok_and(|pid| pid != old)
    })?;
    is_in(&ubd, "live")?;
    ensure!(listed(&ubd, "target")? == "loop");
    let _ = read.finish();
    read_direct(ubd.node(), 0, 4096)?;
    Ok(ubd)
}

pub fn interrupted() -> Result<()> {
    let disk = RamDisk::new()?;
    let valve = Dm::linear("ubdvalve", &disk.node(), 16)?;
    let ubd = Ubd::add(&["-t loop --recovery -f", &valve.node()])?;

    // In the background the new daemon comes without its starter.
    let device = stuck(ubd, &valve)?;
    let ended = "grep -q '^State:.*Z' /proc/$pid/status";
    interrupt(&device.ubd, "", "pgrep -P $pid", ended, &valve)?;
    let ubd = has_survived(device).context("the starter was interrupted")?;

    // In the foreground it is the daemon that is interrupted: SIGINT, the second bit, is blocked and
    // then pending.
    let device = stuck(ubd, &valve)?;
    let [waits, heard] =
        ["SigBlk", "ShdPnd"].map(|set| format!("grep -q '{set}:.*[2367abef]$' /proc/$pid/status"));
    interrupt(&device.ubd, "--foreground", &waits, &heard, &valve)?;
    is_in(&device.ubd, "quiesced").context("the daemon was interrupted")?;
    recover(&device.ubd)?;
    has_survived(device)?.del()
}
