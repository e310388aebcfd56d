// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image behind ubd: mounted, read through and compared, written to, checked.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use crate::device::Device;
use crate::fio::fio;
use crate::numbers::{Mark, Row};
use crate::shell::sh;
use crate::tell;

const MOUNT: &str = "/tmp/demo/image";
const FILES: &str = "/tmp/demo/files";

/// Copied within the image.
const COPIED: &str = "usr/lib/gcc";

/// The fio part of the workload: 20 480 I/Os.
const FIO: &str = "--rw=randrw --size=32m --io_size=80m --iodepth=4";

/// What the image must contain.
pub struct Tree {
    manifest: PathBuf,
    pub files: u64,
}

impl Tree {
    /// `manifest` is the source's, as sha256sum printed it.
    pub fn of(manifest: &Path) -> Result<Tree> {
        let text = std::fs::read_to_string(manifest)
            .with_context(|| format!("failed to read `{}`", manifest.display()))?;
        let files = text.lines().count() as u64;
        ensure!(files >= 3000, "the manifest has only {files} files");
        Ok(Tree {
            manifest: manifest.to_owned(),
            files,
        })
    }

    /// Reads every file of the mounted image and compares its checksum.
    fn compare(&self) -> Result<()> {
        sh(format!(
            "cd {MOUNT}; sha256sum --quiet --strict -c {}",
            self.manifest.display()
        ))
        .context("the image differs from its source")?;
        let found = sh(format!("find {MOUNT}/usr -type f | wc -l"))?;
        ensure!(
            found == self.files.to_string(),
            "the image has {found} files instead of {}",
            self.files
        );
        Ok(())
    }
}

/// Puts a copy of the image on `disk` in a file, on a file system that it makes on `scratch`.
pub fn as_file(disk: &str, scratch: &str) -> Result<String> {
    let file = format!("{FILES}/image.ext4");
    sh(format!(
        "mkdir -p {FILES} {MOUNT}
         mkfs.ext4 -q {scratch}; mount {scratch} {FILES}
         dd if={disk} of={file} bs=1M conv=sparse,fsync status=none
         truncate -s $(blockdev --getsize64 {disk}) {file}"
    ))
    .context("failed to copy the image to a file")?;
    tell::step(&format!(
        "the image is on a disk, {disk}, and in a file, {file}"
    ));
    Ok(file)
}

pub fn forget_file() -> Result<()> {
    sh(format!("umount {FILES}"))?;
    Ok(())
}

/// Runs the workload on the image in `backing`, `name` for the table ("in a file"), with or without the fast
/// path. Both ways it is the same, down to the random numbers.
pub fn exercise(name: &str, backing: &str, fast: bool, tree: &Tree) -> Result<Row> {
    let option = if fast { " --bpf-fastpath" } else { "" };
    println!("\n  $ ubd add -t loop -f {backing}{option}");
    let device = Device::add(&format!("-f {backing}{option}"))?;
    let node = device.node();
    let start = Mark::of(&device)?;

    sh(format!("mount -t ext4 {node} {MOUNT}")).context("failed to mount the image")?;
    tree.compare()?;
    tell::step(&format!(
        "{node} mounted; {} files read and compared with the source: all equal",
        tell::number(tree.files)
    ));
    let ios = fio(&format!("{MOUNT}/fio"), FIO)?.ios;
    ensure!(ios >= 20_000, "fio did only {ios} I/Os");
    tell::step(&format!(
        "fio: {} random reads and writes",
        tell::number(ios)
    ));
    write_and_read_back()?;
    tell::step(&format!(
        "/{COPIED} copied inside the image, synced, read back from the device: equal"
    ));
    sh(format!("umount {MOUNT}"))?;
    let done = start.since(&device)?;

    sh(format!("e2fsck -fn {node}")).context("the file system on the device is not clean")?;
    device.del()?;
    // The backing itself, past what the device's page cache believed.
    sh(format!(
        "[ ! -b {backing} ] || blockdev --flushbufs {backing}; e2fsck -fn {backing}"
    ))
    .context("the file system on the backing is not clean")?;
    tell::step("unmounted, device deleted; fsck through the device and on the backing: clean");

    done.check(fast)?;
    tell::step(&done.summary());
    let path = if fast {
        "ubd, BPF fast path"
    } else {
        "ubd, daemon"
    };
    Ok(done.row(&format!("image {name}"), path))
}

fn write_and_read_back() -> Result<()> {
    // Only what was really written is found after the caches are dropped.
    sh(format!(
        "cd {MOUNT}; cp -a {COPIED} copy; sync -f copy
         echo 3 >/proc/sys/vm/drop_caches
         diff -r --no-dereference {COPIED} copy
         rm -r copy fio; sync -f ."
    ))
    .context("what was written to the image was not read back")?;
    Ok(())
}
