// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading the module, and unloading it with nothing left.

use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::{sh, wait_for};

/// The kernel only warns about such a module; the driver must refuse, and say what to do.
pub fn refuses_without_btf() -> Result<()> {
    let said = sh("
        objcopy -R .BTF -R .BTF.base $UBD_KO no-btf.ko
        if insmod no-btf.ko 2>/dev/null; then rmmod ubd_drv; echo it went in; fi
        rm no-btf.ko
        dmesg | grep 'ubd: ' | tail -n 2")?;
    ensure!(
        said.contains("no usable BTF") && said.contains("dwarves") && !said.contains("it went in"),
        "a module without BTF: {said}"
    );
    Ok(())
}

pub fn load() -> Result<()> {
    sh("insmod $UBD_KO; settle")?;
    ensure!(
        Path::new("/dev/ubd-control").exists(),
        "/dev/ubd-control did not appear"
    );
    Ok(())
}

/// The module goes, and with it every slab, thread, class and node that was its own.
pub fn unload() -> Result<()> {
    sh("for name in $(ls /sys/fs/bpf/ubd 2>/dev/null || true); do ubd-bpf unload $name; done")?;
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
