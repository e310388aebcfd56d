// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring that outlives the thread which fetched with it: its commands stay, and nobody takes what
//! they bring.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use super::{ends_with_eio, read_of};
use crate::control::server::{add_unscanned, delete, open_node, Queue, Ring};
use crate::support::Ubd;

const DEPTH: u16 = 4;

/// A device whose only queue belongs to a thread that has ended, and its ring.
fn orphaned(control: &Control, flags: u64, ring: Ring) -> Result<(Ubd, Queue)> {
    let device = add_unscanned(control, flags, DEPTH)?;
    let node = open_node(device.id())?;
    let thread = std::thread::spawn(move || -> Result<Queue> {
        let mut queue = Queue::with(ring, node, 0, DEPTH)?;
        for tag in 0..DEPTH {
            queue.fetch(tag)?;
        }
        Ok(queue)
    });
    let queue = thread.join().expect("the thread of the queue")?;
    control.start(device.id(), std::process::id())?;
    // What only time can tell is told soon.
    let hidden = format!("/sys/devices/virtual/block/ubdh{}", device.id());
    fs::write(format!("{hidden}/queue/io_timeout"), "1000")?;
    Ok((device, queue))
}

/// What is declined fails, as it does when a server dies.
pub fn outlives_its_thread() -> Result<()> {
    let control = Control::open()?;
    for ring in [Ring::Plain, Ring::Deferred] {
        let (device, queue) = orphaned(&control, 0, ring)?;
        let ended = ends_with_eio(read_of(&device)?);
        delete(&control, device)?;
        drop(queue);
        ended.with_context(|| format!("{ring:?}"))?;
    }
    Ok(())
}

/// The same with a device that waits for its next server, in peace.
pub fn outlives_its_thread_waiting() -> Result<()> {
    let control = Control::open()?;
    for ring in [Ring::Plain, Ring::Deferred] {
        let (device, queue) = orphaned(&control, ublk::F_USER_RECOVERY, ring)?;
        let read = read_of(&device)?;
        sleep(Duration::from_secs(3));
        let before = system_ticks()?;
        sleep(Duration::from_secs(2));
        let spent = system_ticks()? - before;
        let waits = !read.is_finished();
        control.stop(device.id())?;
        let ended = ends_with_eio(read);
        delete(&control, device)?;
        drop(queue);
        ensure!(waits, "{ring:?}: the read did not wait for a server");
        ensure!(
            spent < 100,
            "{ring:?}: the kernel was busy for {spent} hundredths of a second while it waited for 2"
        );
        ended.with_context(|| format!("{ring:?}"))?;
    }
    Ok(())
}

/// What the CPUs have spent in the kernel by now, hundredths of a second.
fn system_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let system = stat.split_whitespace().nth(3).context("no CPU")?;
    Ok(system.parse()?)
}
