// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading the module, and unloading it with nothing left.

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::{sh, wait_for};

pub fn load() -> Result<()> {
    sh("insmod $UBD_KO; udevadm settle --timeout=60")?;
    ensure!(
        Path::new("/dev/ubd-control").exists(),
        "/dev/ubd-control did not appear"
    );
    Ok(())
}

/// The module goes, and with it every slab, thread, class and node that was its own.
pub fn unload() -> Result<()> {
    sh("ls /sys/fs/bpf/ubd 2>/dev/null | xargs -r -n1 ubd-bpf unload")?;
    // The driver's references end with RCU and RCU-tasks grace periods.
    wait_for("the module to be unused", Duration::from_secs(20), || {
        sh("rmmod ubd_drv").is_ok()
    })?;
    let left = sh("
        grep '^ubd' /proc/slabinfo || true
        grep ubd /proc/misc /proc/devices || true
        grep -l '^ubd' /proc/[0-9]*/comm 2>/dev/null || true
        ls -d /sys/class/ubd-char /sys/module/ubd_drv /sys/kernel/debug/tracing/events/ubd /dev/ubd* 2>/dev/null || true")?;
    ensure!(left.is_empty(), "after rmmod there is still:\n{left}");
    Ok(())
}
