// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that are taken away while they are in use, in every way. Whoever uses one gets errors,
//! at once; what he has read until then was right.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use ubd_bpf::control::Control;

use super::model::tally;
use super::stage::Worker;
use crate::support::mount::Mount;
use crate::support::tree::EXT4;
use crate::support::{seconds, sh, slowness, wait_for, Background, Fio, RamDisk, Ubd};

/// STOP, DEL and the end of who uses the device take no longer, on a machine that is busy.
const BOUND: u64 = 90;

/// All have this number, which nobody else gets: it is deleted by number, perhaps twice.
const ID: u32 = 90;

pub fn lives(worker: &mut Worker) -> Result<()> {
    while worker.stage.goes_on() {
        live(worker)?;
    }
    Ok(())
}

fn live(worker: &mut Worker) -> Result<()> {
    worker.does("make a device");
    let disk = RamDisk::new()?;
    let fastpath = worker.pick(&["", "--bpf-fastpath", "--bpf-fastpath", "--forward"]);
    let recovery = worker.pick(&[
        "",
        "",
        "--recovery=wait",
        "--recovery=reissue",
        "--recovery=fail",
    ]);
    let options = format!("-n {ID} -q {} {fastpath} {recovery}", worker.rng.u32(1..=3));
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 32M", &options])?;
    let mounted = worker.rng.u32(..3) == 0;
    let end = if mounted { mounted_end } else { raw_end };
    end(worker, ubd).with_context(|| format!("`{options}`"))?;
    worker.does("look at the disk");
    // Nobody holds the disk any more.
    wait_for("the disk to be let go", Duration::from_secs(BOUND), || {
        sh(format!("mkfs.ext4 -q -F {} 16M", disk.node())).is_ok()
    })
}

/// What the daemon goes through, and then the device.
const ENDS: [(&str, &str); 6] = [
    ("delete under load", ""),
    ("stop under load", "stop"),
    ("kill, then delete under load", "KILL"),
    ("freeze, then delete under load", "STOP"),
    ("terminate under load", "TERM"),
    ("delete twice at once under load", "twice"),
];

fn raw_end(worker: &mut Worker, ubd: Ubd) -> Result<()> {
    let job = Fio::verify(&ubd.node(), 10_000_000)
        .option("size=16M")
        .option("verify_backlog=32")
        .option("bssplit=4k/70:16k/20:256k/10")
        .option("time_based=1")
        .option("runtime=600");
    let mut load = Background::start(job.command())?;
    let busy = |ubd: &Ubd| {
        ubd.counters()
            .is_ok_and(|count| count["mapped"] + count["declined"] > 200)
    };
    wait_for("the load to begin", Duration::from_secs(BOUND), || {
        busy(&ubd) || !load.is_running()
    })?;
    worker.pause(3000);
    tally(worker, &ubd)?;
    let (name, how) = worker.pick(&ENDS);
    if !load.is_running() {
        // Nobody has done anything to the device yet.
        return load.finish().map(drop).context("the load");
    }
    take_away(worker, name, how, ubd, load)
}

/// Takes the device away. From then on its user, who ends at the first error, may say what he likes:
/// who reads behind the end of a disk, which is at 0 now, gets nothing, and fio looks at it.
fn take_away(
    worker: &mut Worker,
    name: &str,
    how: &str,
    ubd: Ubd,
    mut load: Background,
) -> Result<()> {
    let (id, pid) = (ubd.id(), ubd.pid()?);
    let start = Instant::now();
    worker.event(name, |_| {
        match how {
            "" => {}
            "stop" => Control::open()?.stop(id)?,
            "twice" => {
                sh(format!(
                    "ubd del --force {id} & ubd del --force {id} || true; wait"
                ))?;
            }
            signal => {
                sh(format!("kill -{signal} {pid}"))?;
            }
        }
        // It may be on its way out by itself.
        let there = || std::fs::exists(format!("/sys/class/ubd-char/ubdc{id}")).unwrap_or(true);
        wait_for("the device to go", Duration::from_secs(BOUND), || {
            !there() || sh(format!("timeout 300 ubd del --force {id}")).is_ok()
        })?;
        // Whatever it is in now, it must be able to wake up.
        let _ = sh(format!("kill -CONT {pid}"));
        Ok(())
    })?;
    worker.does("wait for the user of a device that is gone");
    wait_for(
        "the user of the device to end",
        Duration::from_secs(BOUND),
        || !load.is_running(),
    )?;
    wait_for("the daemon to end", Duration::from_secs(BOUND), || {
        sh(format!(
            "! kill -0 {pid} 2>/dev/null || grep -q '^State:.Z' /proc/{pid}/status"
        ))
        .is_ok()
    })?;
    ensure!(
        start.elapsed() < seconds(2 * BOUND),
        "{name} took {:?}",
        start.elapsed()
    );
    std::mem::forget(ubd);
    if let Ok(text) = load.finish() {
        bail!("{name}: nobody has noticed that the device is gone:\n{text}");
    }
    Ok(())
}

/// A mounted file system loses its disk, and with it what was not synced.
fn mounted_end(worker: &mut Worker, ubd: Ubd) -> Result<()> {
    let mount = Mount::make(EXT4.mkfs, &ubd.node())?;
    let dir = mount.dir().display().to_string();
    let mut load = Background::start(format!(
        "while cp -r /tmp/tree/Africa {dir}/tree && sync -f {dir} && rm -r {dir}/tree; do :; done"
    ))?;
    worker.does("use a file system");
    worker.pause(3000);
    let id = ubd.id();
    worker.event("delete while mounted", |_| {
        sh(format!("timeout {} ubd del --force {id}", 300 * slowness())).map(drop)
    })?;
    std::mem::forget(ubd);
    worker.does("wait for the user of a file system that is gone");
    wait_for(
        "the file system to fail",
        Duration::from_secs(BOUND),
        || !load.is_running(),
    )?;
    drop(mount);
    Ok(())
}
