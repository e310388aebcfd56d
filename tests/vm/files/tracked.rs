// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tracked mode: the bios are counted until they end, and a fence waits for those.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use super::{Image, EXT4};
use crate::support::backing::{Backing, Kind};
use crate::support::model::Model;
use crate::support::raw::RawControl;
use crate::support::{growth, seconds, Dm, Prog, Quiet, RamDisk, RawUser, Ubd};
use ubd_bpf::uapi::ubd;

const PROGRAM: &str = "linear_tracked";
const FASTPATH: &str = "--bpf-fastpath=linear_tracked";

pub fn on_a_disk() -> Result<()> {
    model(Kind::Disk)
}

pub fn on_a_file() -> Result<()> {
    model(Kind::FileDirect)
}

/// Everything at once, byte by byte; every bio that is mapped is counted, flushes apart.
fn model(kind: Kind) -> Result<()> {
    let _prog = Prog::load(PROGRAM, &[])?;
    let backing = Backing::new(kind)?;
    let device = backing.device(FASTPATH)?;
    let mut model = Model::of(&device, backing.shown(), kind.clears())?;
    let quiet = Quiet::udev()?;
    let count = growth(&device, || model.run(&device.node(), 12, 150).map(drop))?;
    drop(quiet);
    let mapped = count["mapped"] - count["flush_mapped"];
    ensure!(
        mapped > 200 && count["tracked"] == mapped && count["bad"] == 0,
        "{}",
        count.summary()
    );
    let control = Control::open()?;
    control.fence(device.id())?;
    let id = device.id();
    device.del()?;
    ensure!(control.fence(id).is_err(), "a fence of no device held");
    backing.check(&model.bytes)
}

pub fn fences_under_load() -> Result<()> {
    let _prog = Prog::load(PROGRAM, &[])?;
    let image = Image::new(EXT4, 2 << 20)?;
    let disk = RamDisk::new()?;
    let file = Ubd::add(&[
        "-t loop --direct-io=on",
        FASTPATH,
        "-f",
        &image.path.to_string_lossy(),
    ])?;
    let disk = Ubd::add(&["-t loop --sizelimit 2M", FASTPATH, "-f", &disk.node()])?;
    for (device, bytes) in [(&file, image.bytes.clone()), (&disk, vec![0; 2 << 20])] {
        let control = Control::open()?;
        let stop = AtomicBool::new(false);
        let before = device.counters()?;
        thread::scope(|scope| {
            let load = scope.spawn(|| -> Result<()> {
                let mut user = RawUser::of(&device.node(), bytes)?;
                while !stop.load(Ordering::Relaxed) {
                    user.write(5)?;
                    user.read(5)?;
                }
                Ok(())
            });
            let fences = (0..200).try_for_each(|_| control.fence(device.id()));
            stop.store(true, Ordering::Relaxed);
            load.join().expect("the load")?;
            fences.context("a fence")
        })?;
        let count = device.counters()?.since(&before);
        ensure!(
            count["fences"] == 200 && count["tracked"] > 20 && count["bad"] == 0,
            "{}",
            count.summary()
        );
    }
    Ok(())
}

/// As long as the disk below has the I/O, and no longer; what began later is not waited for.
pub fn waits() -> Result<()> {
    let _prog = Prog::load(PROGRAM, &[])?;
    let disk = RamDisk::new()?;
    let valve = Dm::linear("ubdvalve", &disk.node(), 8)?;
    let device = Ubd::add(&["-t loop", FASTPATH, "-f", &valve.node()])?;
    let control = Control::open()?;
    control.fence(device.id())?;
    let mut user = RawUser::of(&device.node(), vec![0; 8 << 20])?;
    user.write(5)?;
    valve.suspend()?;
    thread::scope(|scope| {
        let stuck = scope.spawn(|| user.write(1));
        thread::sleep(Duration::from_millis(300));
        let fence = scope.spawn(|| control.fence(device.id()));
        thread::sleep(Duration::from_millis(500));
        let early = (stuck.is_finished(), fence.is_finished());
        let opened = Instant::now();
        valve.resume()?;
        stuck.join().expect("the writer")?;
        fence.join().expect("the fence")?;
        ensure!(
            early == (false, false),
            "I/O and fence ended early: {early:?}"
        );
        ensure!(
            opened.elapsed() < seconds(3),
            "the fence went on for {:?}",
            opened.elapsed()
        );
        Ok(())
    })?;
    user.check(valve.node())
}

/// A child that waits at a fence.
fn fencing_child(control: &RawControl, id: u32) -> Result<libc::pid_t> {
    let mut arg = ubd::Fence {
        dev_id: id,
        reserved: 0,
    };
    let addr = &raw mut arg as u64;
    // SAFETY: the child makes two system calls and nothing else.
    match unsafe { libc::fork() } {
        0 => {
            let ret = control.ioctl(ubd::CMD_FENCE, addr);
            // SAFETY: ends the child, without any of the parent's clean-ups.
            unsafe { libc::_exit(-ret) }
        }
        -1 => anyhow::bail!("failed to fork"),
        pid => Ok(pid),
    }
}

/// Who is killed while it waits goes at once, and the next fence waits for the same I/O.
pub fn killed() -> Result<()> {
    let _prog = Prog::load(PROGRAM, &[])?;
    let disk = RamDisk::new()?;
    let valve = Dm::linear("ubdvalve", &disk.node(), 8)?;
    let device = Ubd::add(&["-t loop", FASTPATH, "-f", &valve.node()])?;
    let control = Control::open()?;
    let raw = RawControl::open()?;
    let before = device.counters()?;
    let mut user = RawUser::of(&device.node(), vec![0; 8 << 20])?;
    valve.suspend()?;
    let result = thread::scope(|scope| {
        let stuck = scope.spawn(|| user.write(1));
        let outcome = (|| {
            thread::sleep(Duration::from_millis(300));
            for _ in 0..3 {
                let child = fencing_child(&raw, device.id())?;
                thread::sleep(Duration::from_millis(200));
                let mut status = 0;
                // SAFETY: our own child; the status is ours.
                let (early, ended) = unsafe {
                    let early = libc::waitpid(child, &mut status, libc::WNOHANG);
                    libc::kill(child, libc::SIGKILL);
                    (early, libc::waitpid(child, &mut status, 0))
                };
                ensure!(early == 0 && ended == child, "the fence did not wait");
                ensure!(libc::WIFSIGNALED(status), "the child ended with {status}");
            }
            Ok(())
        })();
        let fence = scope.spawn(|| control.fence(device.id()));
        thread::sleep(Duration::from_millis(300));
        let early = stuck.is_finished() || fence.is_finished();
        valve.resume()?;
        stuck.join().expect("the writer")?;
        fence.join().expect("the fence")?;
        outcome?;
        ensure!(!early, "the next fence did not wait");
        Ok(())
    });
    result?;
    for _ in 0..10 {
        user.write(5)?;
        control.fence(device.id())?;
    }
    let fences = device.counters()?.since(&before)["fences"];
    ensure!(fences == 11, "{fences} fences held instead of 11");
    user.check(valve.node())
}
