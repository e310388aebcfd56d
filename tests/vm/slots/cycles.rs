// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device must not be mapped to itself, on no way round.

use std::fs::File;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::{any, open, Slots};
use crate::support::io::write_direct;
use crate::support::{fails, sh, wait_for, Dm, LoopDisk, RamDisk, Ubd};
use ubd_bpf::uapi::ubd;

/// A device with two partitions, over a RAM disk. The table is also read when udev likes, which
/// takes them away for a moment; nobody can while one is open, as the file keeps the first.
fn partitioned(disk: &RamDisk) -> Result<(Ubd, Option<File>)> {
    let device = Ubd::add(&["-t loop -f", &disk.node()])?;
    let mut table = [0; 512];
    for (entry, start) in [2048u32, 67584].into_iter().enumerate() {
        let at = 446 + 16 * entry;
        table[at + 4] = 0x83;
        table[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&65536u32.to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    write_direct(device.node(), 0, &table)?;
    sh(format!(
        "settle; udevadm lock --device={0} blockdev --rereadpt {0}",
        device.node()
    ))?;
    let first = format!("{}p1", device.node());
    let mut held = None;
    wait_for("partitions", Duration::from_secs(10), || {
        held = open(&first, true, false).ok();
        held.is_some()
    })?;
    Ok((device, held))
}

/// Itself, its partitions, other ubd devices, and files that lie on one.
pub fn kernel() -> Result<()> {
    let (disk, disk2) = (RamDisk::new()?, RamDisk::new()?);
    let (device, _held) = partitioned(&disk)?;
    let other = Ubd::add(&["-t loop -f", &disk2.node()])?;
    sh(format!("mkfs.ext4 -q {0}; mkdir -p /mnt/cycle; mount {0} /mnt/cycle; truncate -s 1M /mnt/cycle/file", other.node()))?;
    let result = (|| {
        for id in [&device, &other] {
            let slots = Slots::of(id)?;
            for path in [
                device.node(),
                format!("{}p1", device.node()),
                other.node(),
                "/mnt/cycle/file".into(),
            ] {
                let file = open(&path, true, true)?;
                for flags in [0, ubd::SLOT_WRITE] {
                    slots.refused(
                        &format!("{path} for {}", id.node()),
                        libc::ELOOP,
                        any(&file, flags),
                    )?;
                }
            }
        }
        Ok(())
    })();
    // The first error is the one to tell.
    let unmounted = sh("umount /mnt/cycle");
    result.and(unmounted.map(drop))
}

/// What lies between, only the tools can look through.
pub fn tools() -> Result<()> {
    let disk = RamDisk::new()?;
    let (device, _held) = partitioned(&disk)?;
    let linear = Dm::linear("ubdcycle", &format!("{}p1", device.node()), 8)?;
    let over_linear = LoopDisk::new(linear.node().as_ref(), "")?;
    let null = Ubd::add(&["-t null -s 16M"])?;
    for path in [linear.node(), over_linear.node(), device.node()] {
        for command in [
            format!("ubd add -t loop -f {path} --bpf-fastpath"),
            format!("ubd-bpf slot add {} {path}", null.id()),
            format!("ubd-bpf slot add {} {path} --read-only", null.id()),
        ] {
            let message = fails(2, &command)?;
            ensure!(
                message.contains("ubd device"),
                "`{command}` says `{message}`"
            );
        }
    }
    Ok(())
}

/// An overlay mounted over its own lower directory, as the machine's /etc is, is no circle.
pub fn none() -> Result<()> {
    let null = Ubd::add(&["-t null -s 16M"])?;
    let file = "/etc/ubd-backing";
    sh(format!("truncate -s 1M {file}"))?;
    let added = sh(format!("ubd-bpf slot add {} {file}", null.id()));
    drop(null);
    sh(format!("rm {file}"))?;
    added.map(drop)
}
