// SPDX-License-Identifier: MIT OR Apache-2.0
//! One daemon dies, and another one follows: what people see.

use std::path::Path;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use super::{kill_daemon, listed, record, recover};
use crate::support::backing::noise;
use crate::support::io::{open_direct, read_direct, write_direct};
use crate::support::{growth, sh, Background, RamDisk, Ubd};

pub fn by_hand() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&[
        "-t loop -f",
        &disk.node(),
        "-q 2 --sizelimit 16M --recovery",
    ])?;
    ensure!(listed(&ubd, "recovery")? == "wait" && listed(&ubd, "state")? == "live");
    let data = noise(7, 64 << 10);
    write_direct(ubd.node(), 1 << 20, data)?;

    let old = kill_daemon(&ubd, "quiesced")?;
    ensure!(listed(&ubd, "state")? == "quiesced");
    ensure!(listed(&ubd, "target")? == "loop", "the target is forgotten");
    ensure!(listed(&ubd, "pid")?.is_null());
    let mut read = Background::start(format!(
        "dd if={} of=/dev/null bs=64k count=1 skip=16 iflag=direct",
        ubd.node()
    ))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    ensure!(read.is_running(), "a read did not wait for a daemon");

    let said = recover(&ubd)?;
    ensure!(said == format!("{}: recovered", ubd.node()), "{said}");
    read.finish().context("the read that waited")?;
    ensure!(ubd.pid()? != old && listed(&ubd, "state")? == "live");
    ensure!(listed(&ubd, "pid")? == ubd.pid()?);
    ensure!(read_direct(ubd.node(), 1 << 20, data.len())? == data);
    ensure!(read_direct(disk.node(), 1 << 20, data.len())? == data);

    // The new one is as good as the old one: it removes the device when asked to.
    let (path, pid) = (record(&ubd), ubd.pid()?);
    sh(format!(
        "kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done"
    ))?;
    ensure!(!Path::new(&path).exists(), "the record stays");
    ensure!(!Path::new(&ubd.node()).exists(), "the device stays");
    std::mem::forget(ubd);
    Ok(())
}

/// Slots and the program of the device's own are not made again, and go with the device.
pub fn several_members() -> Result<()> {
    let disks = [RamDisk::new()?, RamDisk::new()?];
    let [a, b] = disks.each_ref().map(RamDisk::node);
    let control = Control::open()?;
    for kind in ["concat", "stripe"] {
        let ubd = Ubd::add(&["-t", kind, "-f", &a, "-f", &b, "--bpf-fastpath --recovery"])?;
        let program = ubd.attr("ubd/program")?;
        let slots = format!("{:?}", control.slots(ubd.id())?);
        kill_daemon(&ubd, "quiesced")?;
        recover(&ubd)?;
        ensure!(
            ubd.attr("ubd/program")? == program,
            "{kind}: another program"
        );
        ensure!(
            format!("{:?}", control.slots(ubd.id())?) == slots,
            "{kind}: other slots"
        );
        let count = growth(&ubd, || write_direct(ubd.node(), 4096, noise(1, 1 << 20)))?;
        count.all_mapped(1)?;
        // Without a program the new daemon serves the same bytes.
        sh(format!("ubd-bpf unbind {}", ubd.id()))?;
        let count = growth(&ubd, || {
            ensure!(read_direct(ubd.node(), 4096, 1 << 20)? == noise(1, 1 << 20));
            Ok(())
        })?;
        count.all_declined(1)?;
        ubd.del()?;
        let left = control.programs()?;
        let own = left.iter().find(|left| left.name == "concat-0");
        ensure!(own.is_none(), "the device's own program stays");
        if kind == "stripe" {
            sh("ubd-bpf unload stripe")?;
        }
    }
    Ok(())
}

/// A device that waits for a daemon can be removed instead, and what waited fails.
pub fn del() -> Result<()> {
    let disk = RamDisk::new()?;
    for policy in ["wait", "reissue", "fail"] {
        let ubd = Ubd::add(&[
            "-t loop --bpf-fastpath -f",
            &disk.node(),
            &format!("--recovery={policy}"),
        ])?;
        let state = if policy == "fail" {
            "fail_io"
        } else {
            "quiesced"
        };
        kill_daemon(&ubd, state)?;
        ensure!(listed(&ubd, "recovery")? == policy);
        let path = record(&ubd);
        ensure!(Path::new(&path).exists());
        ubd.del()?;
        ensure!(!Path::new(&path).exists(), "{policy}: the record stays");
    }

    let ubd = Ubd::add(&["-t null -s 16M --recovery"])?;
    kill_daemon(&ubd, "quiesced")?;
    let node = open_direct(ubd.node(), true)?;
    let waiting = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt;
        let mut buffer = crate::support::io::Aligned::new(4096);
        node.read_exact_at(&mut buffer, 0)
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    ensure!(!waiting.is_finished(), "the read did not wait");
    sh(format!("ubd del --force {}", ubd.id()))?;
    std::mem::forget(ubd);
    let read = waiting.join().expect("the reader");
    ensure!(read.is_err(), "a read of a deleted device succeeded");
    Ok(())
}
