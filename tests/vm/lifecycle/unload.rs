// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module leaves when nobody uses it, devices or not, and not before.

use std::time::Duration;

use anyhow::{ensure, Result};
use ubd_bpf::control::Control;

use super::{is_dead, signal, BOUND};
use crate::control::server::add;
use crate::support::{fails, sh, wait_for, Files, Ubd};

pub fn rmmod() -> Result<()> {
    let files = Files::ext4()?;
    let backing = files.file("backing", 16 << 20)?;
    let device = Ubd::add(&[
        "-t loop -f",
        &backing.display().to_string(),
        "--bpf-fastpath",
    ])?;
    let refused = |why: &str| -> Result<()> {
        let message = fails(1, "rmmod ubd_drv")?;
        ensure!(message.contains("in use"), "{why}: rmmod says `{message}`");
        Ok(())
    };
    refused("a daemon serves")?;

    // The daemon gone, it is the open disk; the disk closed, it is the loaded program.
    let open = std::fs::File::open(device.node())?;
    let pid = device.pid()?;
    signal(pid, libc::SIGKILL);
    wait_for("the daemon to die", BOUND, || is_dead(pid))?;
    let programs = sh("ls /sys/fs/bpf/ubd")?;
    sh("ls /sys/fs/bpf/ubd | xargs -r -n1 ubd-bpf unload")?;
    refused("the disk is open")?;
    drop(open);
    sh("ubd-bpf load linear")?;
    refused("a program is loaded")?;
    sh("ubd-bpf unload linear")?;
    ensure!(
        programs.contains("linear"),
        "the fast path was not loaded: `{programs}`"
    );

    // Idle devices do not hold it: one without a daemon, one without even a disk. Their slots go.
    let _second = add(&Control::open()?, None, 2, 16)?;
    sh("settle")?;
    wait_for("rmmod with idle devices", Duration::from_secs(30), || {
        sh("rmmod ubd_drv").is_ok()
    })?;
    let left = sh("
        ls -d /dev/ubd* /sys/block/ubd* /sys/class/ubd-char 2>/dev/null || true
        grep '^ubd' /proc/slabinfo || true");
    // The file is let go.
    let (dir, disk) = (files.dir().display(), files.disk().node());
    let unmounted = sh(format!("umount {dir} && mount {disk} {dir}"));
    // The other tests want it back, whatever came of this one.
    sh("insmod $UBD_KO; settle")?;
    let left = left?;
    ensure!(left.is_empty(), "after rmmod there is still:\n{left}");
    unmounted?;
    Ok(())
}
