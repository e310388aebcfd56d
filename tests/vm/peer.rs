// SPDX-License-Identifier: MIT OR Apache-2.0
//! rublk, which was written for ublk, serves ubd's devices: all it needs is links with the names
//! that it looks for.

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use crate::support::io::read_direct;
use crate::support::{sh, Files, Fio, Prog, Skip, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test {
        name: "peer/rublk_null",
        run: null,
    },
    Test {
        name: "peer/rublk_loop",
        run: || looped(1),
    },
    Test {
        name: "peer/rublk_loop_q2",
        run: || looped(2),
    },
    Test {
        name: "peer/rublk_with_a_fast_path",
        run: mapped,
    },
];

/// Numbers that the links are for.
const IDS: std::ops::Range<u32> = 30..34;

/// Links that dangle until the nodes appear.
struct Links;

impl Links {
    fn new() -> Result<Links> {
        if sh("command -v rublk").is_err() {
            return Err(Skip("there is no rublk".into()).into());
        }
        let links = Links;
        sh("ln -sfn ubd-control /dev/ublk-control")?;
        for id in IDS {
            sh(format!(
                "ln -sfn ubdc{id} /dev/ublkc{id}; ln -sfn ubdb{id} /dev/ublkb{id}"
            ))?;
        }
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let _ = sh("find /dev -maxdepth 1 -name 'ublk*' -type l -delete");
    }
}

/// `rublk add`, and the disk that comes of it.
fn rublk(id: u32, target: &str) -> Result<Ubd> {
    let said = sh(format!(
        "timeout 60 rublk add {target} -n {id} 2>&1; udevadm settle --timeout=60"
    ));
    let device = Ubd::adopt(id);
    let said = said.context("rublk add failed")?;
    let state = device
        .attr("ubd/state")
        .with_context(|| format!("there is no disk; rublk said: {said}"))?;
    ensure!(state == "live", "state {state}; rublk said: {said}");
    let info = Control::open()?.dev_info(id)?;
    ensure!(
        info.ublksrv_pid as u32 == device.pid()? && info.ublksrv_pid > 0,
        "pid {}",
        info.ublksrv_pid
    );
    Ok(device)
}

/// `rublk del` must do it alone.
fn delete(device: Ubd) -> Result<()> {
    sh(format!("timeout 60 rublk del -n {} 2>&1", device.id()))?;
    ensure!(
        Control::open()?.dev_info(device.id()).is_err(),
        "rublk has not deleted the device"
    );
    std::mem::forget(device);
    Ok(())
}

fn null() -> Result<()> {
    let _links = Links::new()?;
    let device = rublk(30, "null -q 2 -d 32")?;
    let before = device.counters()?;
    let done = Fio::new(&device.node(), 2000).option("size=64M").run()?;
    ensure!(done >= 2000, "fio did {done}");
    device.counters()?.since(&before).all_declined(2000)?;
    let listed = sh(format!("rublk list -n {} 2>&1", device.id()))?;
    ensure!(
        listed.contains("LIVE") || listed.contains("dev id"),
        "`rublk list` says\n{listed}"
    );
    delete(device)
}

fn looped(queues: u32) -> Result<()> {
    let _links = Links::new()?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let device = rublk(31, &format!("loop -f {} -q {queues}", backing.display()))?;
    let before = device.counters()?;
    Fio::verify(&device.node(), 2000).option("size=16M").run()?;
    device.counters()?.since(&before).all_declined(2000)?;
    sh(format!("blockdev --flushbufs {}", device.node()))?;
    let (device_bytes, file_bytes) = (
        read_direct(device.node(), 0, 1 << 20)?,
        read_direct(&backing, 0, 1 << 20)?,
    );
    ensure!(
        device_bytes == file_bytes && device_bytes.iter().any(|byte| *byte != 0),
        "device and file differ"
    );
    delete(device)
}

/// A server that knows nothing of programs gets a fast path from outside.
fn mapped() -> Result<()> {
    let _links = Links::new()?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let prog = Prog::load("checker", &[])?;
    let device = rublk(32, &format!("loop -f {}", backing.display()))?;
    sh(format!(
        "ubd-bpf slot add {} {} --direct",
        device.id(),
        backing.display()
    ))?;
    sh(format!("ubd-bpf bind {} {}", device.id(), prog.name()))?;
    let before = device.counters()?;
    Fio::verify(&device.node(), 2000).option("size=16M").run()?;
    let counted = device.counters()?.since(&before);
    ensure!(
        counted["mapped"] > 300 && counted["declined"] > 300 && counted["bad"] == 0,
        "{}",
        counted.summary()
    );
    delete(device)
}
