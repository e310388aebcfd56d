// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring that outlives the thread which fetched with it: its commands stay, and nobody takes what
//! they bring.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use super::{ends_with_eio, read_of, BOUND};
use crate::control::server::{add_unscanned, delete, open_node, Queue, Ring};
use crate::support::{wait_for, Quiet, Ubd};

const DEPTH: u16 = 4;

/// A device whose only queue belongs to a thread that has ended, and its ring. udev must be quiet:
/// what it reads may never end, and whoever writes an attribute of the queue waits for that.
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
    fs::write(io_timeout(&device), "1000")?;
    Ok((device, queue))
}

fn io_timeout(device: &Ubd) -> String {
    let id = device.id();
    format!("/sys/devices/virtual/block/ubdh{id}/queue/io_timeout")
}

/// What is declined fails, as it does when a server dies.
pub fn outlives_its_thread() -> Result<()> {
    let _quiet = Quiet::udev()?;
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
    let _quiet = Quiet::udev()?;
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

/// An attribute of the hidden queue is written once no I/O is under way, as with any disk. That may
/// take until there is a server again, or until STOP.
pub fn attribute_waits_for_io() -> Result<()> {
    let _quiet = Quiet::udev()?;
    let control = Control::open()?;
    let (device, queue) = orphaned(&control, ublk::F_USER_RECOVERY, Ring::Plain)?;
    let read = read_of(&device)?;
    wait_for("the read to be declined", BOUND, || {
        device
            .counters()
            .is_ok_and(|counters| counters["declined"] > 0)
    })?;
    let attribute = io_timeout(&device);
    let writer = std::thread::spawn(move || fs::write(attribute, "2000"));
    sleep(Duration::from_secs(2));
    let waits = !writer.is_finished() && !read.is_finished();
    control.stop(device.id())?;
    let ended = ends_with_eio(read);
    let freed = wait_for("the attribute to be written", BOUND, || {
        writer.is_finished()
    });
    delete(&control, device)?;
    drop(queue);
    ended.and(freed)?;
    ensure!(
        waits,
        "neither the read nor the attribute waited for a server"
    );
    Ok(())
}

/// What the CPUs have spent in the kernel by now, hundredths of a second.
fn system_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let system = stat.split_whitespace().nth(3).context("no CPU")?;
    Ok(system.parse()?)
}
