// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems on disks of the caller's, and images of known content on them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::backing::noise;
use super::io::{open_direct, Aligned};
use super::{sh, wait_for};
use std::os::unix::fs::FileExt;

/// A mounted file system; unmounted when dropped, so it comes after its disk.
pub struct Mount {
    node: String,
    dir: PathBuf,
}

impl Mount {
    /// `mkfs` is a command that ends with the options; the node follows.
    pub fn make(mkfs: &str, node: &str) -> Result<Mount> {
        sh(format!("{mkfs} {node}")).context("mkfs")?;
        Mount::existing(node)
    }

    /// Mounts what `node` holds.
    pub fn existing(node: &str) -> Result<Mount> {
        let name = node.rsplit('/').next().unwrap_or(node);
        let dir = PathBuf::from(format!("/mnt/on-{name}"));
        sh(format!("mkdir -p {0}; mount {node} {0}", dir.display())).context("mount")?;
        Ok(Mount {
            node: node.to_owned(),
            dir,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it and runs a check such as `e2fsck -fn`.
    pub fn check(self, fsck: &str) -> Result<()> {
        let node = self.node.clone();
        unmount(&self.dir)?;
        std::mem::forget(self);
        sh(format!("{fsck} {node}")).context("fsck")?;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = unmount(&self.dir);
    }
}

/// A file of it may be a slot for a moment after its device has gone: as long as udev looks at that.
pub fn unmount(dir: &Path) -> Result<()> {
    let unmounted = || sh(format!("umount {}", dir.display())).is_ok();
    wait_for(
        "a file system to be let go",
        Duration::from_secs(10),
        unmounted,
    )
}

/// A new file of random bytes, all allocated, none cached; gives the path and the bytes.
pub fn image(dir: &Path, name: &str, len: usize) -> Result<(PathBuf, Vec<u8>)> {
    const CHUNK: usize = 1 << 20;
    let path = dir.join(name);
    File::create_new(&path).with_context(|| format!("failed to make `{}`", path.display()))?;
    let file = open_direct(&path, true)?;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = bytes.len();
        let data = noise(at / 4096 * 4099, CHUNK.min(len - at));
        file.write_all_at(&Aligned::copy_of(data, 0), at as u64)
            .context("failed to fill the image")?;
        bytes.extend_from_slice(data);
    }
    file.sync_all()?;
    Ok((path, bytes))
}
