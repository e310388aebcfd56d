// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file whose block map has to be read from the disk, in the middle of an I/O.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

use super::{device, mostly_inline, EXT4};
use crate::support::mount::{image, Mount};
use crate::support::{sh, RamDisk, RawUser};

const IMAGE: usize = 64 << 20;
const BLOCK: usize = 4096;

/// ext4 reads its extent tree by bios of its own and waits for them, IOCB_NOWAIT or not. Called
/// from within submit_bio(), it would wait forever for what is queued behind its caller. The RAM
/// disk below is one whose bios are queued so.
pub fn cold() -> Result<()> {
    let disk = RamDisk::new()?;
    let mount = Mount::make(&format!("{} -m 0", EXT4.mkfs), &disk.node())?;
    let dir = mount.dir().display();
    let (path, bytes) = image(mount.dir(), "image", IMAGE)?;
    let file = OpenOptions::new().write(true).open(&path)?;
    // Somebody else takes what is punched out, or the block beside would be the best again.
    let eat = |name: &str| {
        sh(format!(
            "dd if=/dev/zero of={dir}/{name} bs=64k status=none 2>&1 || sync"
        ))
    };
    eat("rest")?;
    for at in (0..IMAGE).step_by(2 * BLOCK) {
        // SAFETY: no memory is involved.
        let ret = unsafe {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            libc::fallocate(file.as_raw_fd(), mode, at as i64, BLOCK as i64)
        };
        ensure!(ret == 0, "failed to punch a hole");
    }
    sh("sync")?;
    eat("holes")?;
    sh(format!("rm {dir}/rest; sync"))?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    // More than 4 x 340 extents: a tree of depth 2.
    let told = sh(format!("filefrag {}", path.display()))?;
    let extents = told.split(' ').nth(1).and_then(|n| n.parse().ok());
    ensure!(extents > Some(8000), "the image is not in pieces: {told}");

    let ubd = device(&path)?;
    let mut user = RawUser::of(&ubd.node(), bytes)?;
    // What spans extents is no overwrite to ext4, which leaves it to a thread.
    user.block = Some(BLOCK);
    user.write(2)?;
    for _ in 0..3 {
        let mut part = |what: fn(&mut RawUser) -> Result<()>| -> Result<()> {
            mostly_inline(&ubd, 1, || {
                sh("sync; echo 3 > /proc/sys/vm/drop_caches")?;
                what(&mut user)?;
                Ok(100)
            })
        };
        part(|user| user.read(100)).context("reads")?;
        part(|user| user.write(100)).context("overwrites")?;
    }
    user.block = None;
    sh("sync; echo 3 > /proc/sys/vm/drop_caches")?;
    user.write(50)?;
    user.read(50)?;
    user.check(&path)
}
