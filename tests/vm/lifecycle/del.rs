// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that are deleted while somebody uses them.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::{is_dead, BOUND};
use crate::support::io::{open_direct, read_direct, Aligned};
use crate::support::{fails, sh, slowness, LoopDisk, RamDisk, Ubd};

pub fn while_open() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 16M --bpf-fastpath"])?;
    let pid = ubd.pid()?;
    let open = open_direct(ubd.node(), true)?;
    let message = fails(2, format!("ubd del {}", ubd.id()))?;
    let us = std::process::id().to_string();
    ensure!(
        message.contains("open") && message.contains(&us),
        "`ubd del` says `{message}`"
    );
    let mut data = Aligned::new(4096);
    open.read_exact_at(&mut data, 0)
        .context("a refused `ubd del` has harmed the device")?;

    let start = Instant::now();
    sh(format!("timeout 180 ubd del --force {}", ubd.id()))?;
    ensure!(
        start.elapsed() < BOUND * slowness(),
        "it took {:?}",
        start.elapsed()
    );
    ensure!(is_dead(pid), "the daemon lives on");
    ensure!(
        open.read_exact_at(&mut data, 0).is_err(),
        "a deleted disk can be read"
    );
    ensure!(
        open.write_all_at(&data, 0).is_err(),
        "a deleted disk can be written"
    );
    // The number is free, though the old disk is still held by us.
    let next = Ubd::add(&["-t null -s 16M -n", &ubd.id().to_string()])?;
    ensure!(
        open.read_exact_at(&mut data, 0).is_err(),
        "the old disk reads from the new one"
    );
    drop(open);
    read_direct(next.node(), 0, 4096)?;
    std::mem::forget(ubd); // its number is next's now
    next.del()?;
    // The last close has let the backing go.
    sh(format!("mkfs.ext4 -q {}", disk.node())).context("the backing is still claimed")?;
    Ok(())
}

pub fn while_mounted() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 64M --bpf-fastpath"])?;
    sh(format!(
        "mkfs.ext4 -q {0}; mkdir -p /mnt/deleted; mount {0} /mnt/deleted; cp -r /etc /mnt/deleted/",
        ubd.node()
    ))?;
    let message = fails(2, format!("ubd del {}", ubd.id()))?;
    ensure!(
        message.contains("mounted") && message.contains("/mnt/deleted"),
        "`ubd del` says `{message}`"
    );
    let start = Instant::now();
    let deleted = sh(format!("timeout 180 ubd del --force {}", ubd.id()));
    let took = start.elapsed();
    let written = sh("dd if=/dev/zero of=/mnt/deleted/late bs=1M count=8 conv=fsync");
    sh("umount /mnt/deleted")?;
    deleted?;
    ensure!(took < BOUND * slowness(), "it took {took:?}");
    ensure!(
        written.is_err(),
        "a file system on a deleted disk takes data"
    );
    // Nothing holds the backing any more, and what was synced before is there.
    sh(format!("fsck.ext4 -fy {} || [ $? -le 1 ]", disk.node()))?;
    Ok(())
}

/// A user inside the kernel is in no table that could be read: the driver knows.
pub fn under_a_loop_device() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    let above = LoopDisk::new(Path::new(&ubd.node()), "")?;
    sh("settle")?;
    let message = fails(2, format!("ubd del {}", ubd.id()))?;
    ensure!(
        message.contains("in use") && message.contains("--force"),
        "`ubd del` says `{message}`"
    );
    read_direct(above.node(), 0, 4096).context("a refused `ubd del` has harmed the device")?;
    drop(above);
    ubd.del()
}
