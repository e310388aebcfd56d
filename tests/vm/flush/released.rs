// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was written to a slot that is taken away, and never flushed.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{cached, device, flushes, write};
use crate::support::io::open_direct;
use crate::support::{sh, slowness, Background, Dm, Ubd};

/// It is flushed when the slot goes.
pub fn is_flushed() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = device(&disk)?;
    write(&open_direct(ubd.node(), true)?, 0)?;
    sh("settle")?;
    let before = flushes(&disk)?;
    sh(format!("ubd-bpf slot del {} 0", ubd.id()))?;
    ensure!(flushes(&disk)? > before, "the slot went without a flush");
    ubd.del()
}

/// Until then a flush of the device does not end.
pub fn is_waited_for() -> Result<()> {
    let disk = cached(&[])?;
    let valve = Dm::linear("ubdvalve", &disk.node(), 16)?;
    let ubd = Ubd::add(&["-t loop -f", &valve.node(), "--bpf-fastpath"])?;
    write(&open_direct(ubd.node(), true)?, 0)?;
    sh("settle")?;
    let before = flushes(&disk)?;

    valve.suspend()?;
    let short = Duration::from_secs(1) * slowness();
    let going = Background::start(format!("ubd-bpf slot del {} 0", ubd.id()))?;
    sleep(short);
    let flush = format!("dd of={} count=0 conv=fsync,notrunc </dev/null", ubd.node());
    let mut flush = Background::start(flush)?;
    sleep(short);
    let waits = flush.is_running();
    let flushed = flushes(&disk)?;
    valve.resume()?;
    ensure!(
        waits && flushed == before,
        "a flush has ended before what it covers"
    );
    flush.finish().context("the flush")?;
    going.finish().context("the slot")?;
    ensure!(flushes(&disk)? > before, "nothing was flushed");
    ubd.del()
}
