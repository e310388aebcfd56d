// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file system with a real tree in it.

use anyhow::{ensure, Context, Result};

use super::sh;

/// Some hundred small files and links; larger files come beside it. A copy in RAM, for the root
/// file system is a slow one.
const SOURCE: &str = "/tmp/tree";
const ORIGINAL: &str = "/usr/share/zoneinfo";
const MOUNT: &str = "/mnt/tree";

/// What differs between file systems.
pub struct Kind {
    pub name: &'static str,
    pub mkfs: &'static str,
    /// Checks and repairs nothing.
    pub fsck: &'static str,
}

pub const EXT4: Kind = Kind {
    name: "ext4",
    mkfs: "mkfs.ext4 -q -F -J size=4",
    fsck: "e2fsck -fn",
};

pub const XFS: Kind = Kind {
    name: "xfs",
    mkfs: "mkfs.xfs -q -f",
    fsck: "xfs_repair -n",
};

/// Makes the file system on `node`, fills it, compares it after a fresh mount, rewrites and
/// removes parts of it, trims it, and has it checked.
pub fn exercise(kind: &Kind, node: &str) -> Result<()> {
    sh(format!("[ -e {SOURCE} ] || cp -a {ORIGINAL} {SOURCE}"))?;
    sh(format!("{} {node}", kind.mkfs)).context("mkfs")?;
    mount(kind, node, "")?;
    let filled = sh(format!(
        "cp -a {SOURCE} {MOUNT}/tree; cd {MOUNT}
         dd if=/dev/urandom of=big bs=64k count=32 conv=fsync status=none
         cp big copy; sync; sha256sum big copy > sums"
    ));
    unmount()?;
    filled.context("filling the file system")?;

    mount(kind, node, "")?;
    let changed = sh(format!(
        "cd {MOUNT}; sha256sum --quiet -c sums; diff -r --no-dereference {SOURCE} tree
         rm -r copy tree/America; dd if=big of=big bs=4k skip=256 count=64 conv=notrunc,fsync status=none
         echo more >> tree/zone.tab; sync
         if [ $(cat /sys/block/{}/queue/discard_max_bytes) != 0 ]; then fstrim .; fi
         sha256sum big > sums",
        node.trim_start_matches("/dev/")
    ));
    unmount()?;
    changed.context("comparing and changing the file system")?;
    sh(format!("{} {node}", kind.fsck)).context("fsck through the device")?;
    Ok(())
}

/// Checks and compares what [`exercise`] left, on the backing itself. `options` are mount's.
pub fn check_backing(kind: &Kind, path: &str, options: &str) -> Result<()> {
    sh(format!(
        "[ ! -b {path} ] || blockdev --flushbufs {path}; {} {path}",
        kind.fsck
    ))
    .context("fsck of the backing")?;
    mount(kind, path, options)?;
    let differs = sh(format!(
        "cd {MOUNT}; sha256sum --quiet -c sums
         diff -rq --no-dereference {SOURCE} tree || true"
    ));
    unmount()?;
    let differs = differs.context("comparing the backing")?;
    ensure!(
        differs
            == format!(
                "Only in {SOURCE}: America\nFiles {SOURCE}/zone.tab and tree/zone.tab differ"
            ),
        "the backing has another tree: {differs}"
    );
    Ok(())
}

fn mount(kind: &Kind, node: &str, options: &str) -> Result<()> {
    sh(format!(
        "mkdir -p {MOUNT}; mount -t {} {options} {node} {MOUNT}",
        kind.name
    ))
    .context("mount")?;
    Ok(())
}

fn unmount() -> Result<()> {
    sh(format!("umount {MOUNT}")).context("umount")?;
    Ok(())
}
