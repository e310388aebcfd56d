// SPDX-License-Identifier: MIT OR Apache-2.0
//! Forwarded I/O that takes its time, and who goes meanwhile.

use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, read_direct, Aligned};
use crate::support::{growth, sh, wait_for, Background, Dm, RamDisk, Ubd};

const WRITERS: usize = 8;
const PIECE: usize = 16 << 10;

/// A disk whose I/O can be held.
struct Valve {
    dm: Dm,
    ram: RamDisk,
}

impl Valve {
    fn new() -> Result<Valve> {
        let ram = RamDisk::new()?;
        let dm = Dm::linear("ubdvalve", &ram.node(), 16)?;
        Ok(Valve { dm, ram })
    }
}

fn data(number: usize) -> Aligned {
    Aligned::copy_of(noise(number * 77 + 1, PIECE), 0)
}

/// Has writers write through the shut valve, and calls `then` when all of it was forwarded; the
/// writers must succeed, each once. `then` opens the valve.
fn stuck(valve: &Valve, ubd: &Ubd, then: impl FnOnce() -> Result<()>) -> Result<()> {
    let node = ubd.node();
    let before = ubd.counters()?;
    valve.dm.suspend()?;
    thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let node = &node;
                scope.spawn(move || {
                    let file = open_direct(node, true)?;
                    file.write_all_at(&data(number), (number * PIECE) as u64)
                        .with_context(|| format!("writer {number}"))
                })
            })
            .collect();
        let forwarded = || {
            ubd.counters()
                .is_ok_and(|count| count.since(&before)["write_forwarded"] == WRITERS as u64)
        };
        let result = wait_for(
            "the writes to be forwarded",
            Duration::from_secs(30),
            forwarded,
        )
        .and_then(|()| then());
        // Whatever happened: nobody waits for ever.
        valve.dm.resume()?;
        for writer in writers {
            writer.join().expect("a writer")?;
        }
        result
    })?;
    for number in 0..WRITERS {
        let is = read_direct(valve.ram.node(), (number * PIECE) as u64, PIECE)?;
        same(&is, &data(number)).with_context(|| format!("what writer {number} wrote"))?;
    }
    Ok(())
}

/// `ubd del` waits for forwarded I/O, which ends well; the daemon lives until then.
pub fn stop_waits() -> Result<()> {
    let valve = Valve::new()?;
    let ubd = Ubd::add(&["-t loop --forward -f", &valve.dm.node()])?;
    let pid = ubd.pid()?;
    let alive = || std::path::Path::new(&format!("/proc/{pid}")).exists();
    let mut del = None;
    stuck(&valve, &ubd, || {
        let mut running = Background::start(format!("ubd del --force {}", ubd.id()))?;
        // Longer than STOP is patient with servers.
        thread::sleep(Duration::from_secs(7));
        ensure!(running.is_running(), "the deletion did not wait");
        ensure!(alive(), "the daemon was killed, or went");
        valve.dm.resume()?;
        del = Some(running);
        Ok(())
    })?;
    del.context("nothing was deleted")?.finish()?;
    ensure!(
        !std::path::Path::new(&ubd.node()).exists(),
        "the device is still there"
    );
    std::mem::forget(ubd);
    Ok(())
}

/// The daemon is killed while its forwards are on their way: they succeed, once each; what comes
/// later fails.
pub fn killed() -> Result<()> {
    let valve = Valve::new()?;
    let ubd = Ubd::add(&["-t loop --forward -q 2 -f", &valve.dm.node()])?;
    let pid = ubd.pid()?;
    let before = ubd.counters()?;
    stuck(&valve, &ubd, || {
        sh(format!("kill -9 {pid}"))?;
        wait_for("the daemon to be gone", Duration::from_secs(20), || {
            ubd.attr("ubd/state").is_ok_and(|state| state == "fail_io")
        })?;
        thread::sleep(Duration::from_millis(200));
        valve.dm.resume()
    })?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["write_forwarded"] == WRITERS as u64 && count["write_declined"] == WRITERS as u64,
        "{}",
        count.summary()
    );
    let late = open_direct(ubd.node(), true)?.write_all_at(&data(0), 0);
    ensure!(
        late.err().and_then(|err| err.raw_os_error()) == Some(libc::EIO),
        "nobody serves it, and yet it was written to"
    );
    Ok(())
}

/// A slot that goes while its I/O is on its way is there until that has ended; then the daemon,
/// which may not forward to it any more, does it by itself.
pub fn unregistered() -> Result<()> {
    let valve = Valve::new()?;
    let ubd = Ubd::add(&["-t loop --forward -f", &valve.dm.node()])?;
    stuck(&valve, &ubd, || {
        sh(format!("ubd-bpf slot del {} 0", ubd.id()))?;
        valve.dm.resume()
    })?;
    let file = open_direct(ubd.node(), true)?;
    let count = growth(&ubd, || Ok(file.write_all_at(&data(3), 0)?))?;
    ensure!(
        count["forwarded"] == 0 && count["write_declined"] == 1,
        "{}",
        count.summary()
    );
    same(&read_direct(valve.ram.node(), 0, PIECE)?, &data(3))
}
