// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a file or block device consists of, whatever its name.

use super::Nature;
use crate::sysfs;
use nix::sys::statvfs::{statvfs, FsFlags};
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The bytes that a file or block device stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extent {
    /// A regular file, by its file system and inode.
    File(libc::dev_t, u64),
    /// A block device, by its disk and its first byte on it.
    Block(PathBuf, u64),
}

impl Extent {
    pub(super) fn of(nature: Nature, meta: &Metadata) -> Self {
        match nature {
            Nature::File => Extent::File(meta.dev(), meta.ino()),
            Nature::Block => {
                let dir = device_dir(meta.rdev());
                // The directory of a partition lies in that of its disk.
                let dir = dir.canonicalize().unwrap_or(dir);
                let start = |dir: &Path| sysfs::read(&dir.join("start")).ok()?.parse::<u64>().ok();
                match (start(&dir), dir.parent()) {
                    (Some(sectors), Some(disk)) => Extent::Block(disk.into(), sectors << 9),
                    _ => Extent::Block(dir, 0),
                }
            }
        }
    }

    /// Whether `range` (bytes) of this one has bytes of `theirs` of the other.
    pub(super) fn overlaps(&self, range: Range<u64>, other: &Self, theirs: Range<u64>) -> bool {
        let apart = match (self, other) {
            (Extent::Block(ours, start), Extent::Block(disk, other)) if ours == disk => {
                range.end + start <= theirs.start + other
                    || theirs.end + other <= range.start + start
            }
            (Extent::File(..), Extent::File(..)) if self == other => {
                range.end <= theirs.start || theirs.end <= range.start
            }
            _ => true,
        };
        !apart
    }
}

fn device_dir(dev: libc::dev_t) -> PathBuf {
    format!("/sys/dev/block/{}:{}", libc::major(dev), libc::minor(dev)).into()
}

/// Whether the block device, or the file system of the file, takes no writes
/// from anybody. What cannot be found out is told by opening it.
pub fn is_read_only(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => {
            sysfs::read(&device_dir(meta.rdev()).join("ro")).is_ok_and(|ro| ro != "0")
        }
        Ok(_) => statvfs(path).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_a_part_of_its_disk() {
        let disk = Extent::Block("/sys/sda".into(), 0);
        let part = Extent::Block("/sys/sda".into(), 1 << 20);
        let other = Extent::Block("/sys/sdb".into(), 0);
        assert!(disk.overlaps(0..(1 << 20) + 1, &part, 0..512));
        assert!(!disk.overlaps(0..1 << 20, &part, 0..512));
        assert!(!part.overlaps(0..512, &other, 0..1 << 30));
    }

    #[test]
    fn a_file_is_itself_by_any_name() {
        let file = Extent::File(1, 2);
        assert!(file.overlaps(0..512, &Extent::File(1, 2), 511..600));
        assert!(!file.overlaps(0..512, &Extent::File(1, 2), 512..600));
        assert!(!file.overlaps(0..512, &Extent::File(1, 3), 0..512));
    }
}
