// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the paths lead to: a RAM disk, or a file of a file system on one. It is made once a boot
//! and is the same for every path.

use anyhow::{bail, Context, Result};

use crate::shell::sh;

/// How much of it fio uses; written before anything is measured, since a RAM disk has pages and
/// a file has blocks only then.
pub const RANGE_MIB: u32 = 64;

const RAM: &str = "/dev/ram0";
const FILES: &str = "/mnt/bench";

/// As large as a cluster map of a million entries reaches; pages that nobody writes take no room.
const DISK_KIB: u64 = 64 << 20;
/// XFS wants 300 MiB.
const FILES_KIB: u64 = 512 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Block,
    Ext4,
    Xfs,
}

impl Kind {
    pub fn parse(name: &str) -> Result<Kind> {
        Ok(match name {
            "block" => Kind::Block,
            "ext4" => Kind::Ext4,
            "xfs" => Kind::Xfs,
            _ => bail!("`{name}` is not a backing: block, ext4 or xfs"),
        })
    }
}

pub struct Backing {
    /// A block device or a regular file.
    pub node: String,
    pub is_file: bool,
}

impl Backing {
    pub fn make(kind: Kind) -> Result<Backing> {
        // What mkfs.ext4 leaves for later would be done, and counted, while fio runs.
        let (kib, mkfs) = match kind {
            Kind::Block => (DISK_KIB, ""),
            Kind::Ext4 => (
                FILES_KIB,
                "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0",
            ),
            Kind::Xfs => (FILES_KIB, "mkfs.xfs -q"),
        };
        sh(format!("modprobe brd rd_nr=1 rd_size={kib} max_part=0"))
            .context("failed to make a RAM disk")?;
        let is_file = kind != Kind::Block;
        let node = if is_file {
            sh(format!(
                "mkdir -p {FILES}; {mkfs} {RAM}; mount {RAM} {FILES}"
            ))
            .context("failed to make a file system")?;
            format!("{FILES}/file")
        } else {
            RAM.to_owned()
        };
        sh(format!(
            "dd if=/dev/zero of={node} bs=1M count={RANGE_MIB} oflag=direct status=none
             sync; udevadm settle --timeout=60"
        ))
        .with_context(|| format!("failed to fill `{node}`"))?;
        Ok(Backing { node, is_file })
    }
}
