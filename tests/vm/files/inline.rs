// SPDX-License-Identifier: MIT OR Apache-2.0
//! Direct I/O of somebody who holds no locks: no thread takes part.

use anyhow::{ensure, Context, Result};

use super::{device, mostly_inline, never_inline, Fs, Image, EXT4};
use crate::support::mount::{image, Mount};
use crate::support::{growth, sh, Dm, Fio, Quiet, RamDisk, RawUser, Ubd};

const IMAGE: usize = 8 << 20;

/// One I/O at a time, of any size, at any sector.
pub fn raw_user(fs: Fs) -> Result<()> {
    let image = Image::new(fs, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;

    let reads = growth(&ubd, || user.read(300))?;
    ensure!(
        reads["file_inline"] >= 300 && reads["file_worker"] + reads["inline_eagain"] == 0,
        "reads: {}",
        reads.summary()
    );
    mostly_inline(&ubd, 1, || user.write(300).map(|()| 300)).context("overwrites")?;
    let durable = growth(&ubd, || user.write_flags(30, libc::RWF_DSYNC))?;
    never_inline(&durable, 30).context("FUA writes")?;
    user.check(&image.path)
}

/// Sixteen in flight, by two interfaces; at sectors that are not the file system's blocks.
pub fn queues(fs: Fs) -> Result<()> {
    let image = Image::new(fs, IMAGE)?;
    let ubd = image.device()?;
    image.user(&ubd)?;
    let _quiet = Quiet::udev()?;
    for (engine, size, ios) in [
        ("io_uring", "4k", 400),
        ("libaio", "512", 400),
        ("io_uring", "128k", 90),
    ] {
        let context = || format!("{engine}, {size}");
        let fio = Fio::verify(&ubd.node(), ios)
            .option(&format!("ioengine={engine}"))
            .option(&format!("bs={size}"))
            .option("offset=1536")
            .option("size=7M");
        let run = || {
            let done = fio.run()?;
            ensure!(done >= ios * 2 / 3, "only {done} I/Os");
            Ok(done)
        };
        mostly_inline(&ubd, 16, run).with_context(context)?;
    }
    Ok(())
}

/// A slot through the page cache of the file.
pub fn buffered_slot() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = Ubd::add(&["-t loop --bpf-fastpath -f", &image.path.to_string_lossy()])?;
    let mut user = image.user(&ubd)?;
    let count = growth(&ubd, || {
        user.write(40)?;
        user.read(40)
    })?;
    never_inline(&count, 80)?;
    user.file().sync_all()?;
    user.check(&image.path)
}

/// A file system on two layers of device-mapper.
pub fn deep_stack() -> Result<()> {
    let disk = RamDisk::new()?;
    let lower = Dm::linear("ubdlower", &disk.node(), 100)?;
    let upper = Dm::linear("ubdupper", &lower.node(), 100)?;
    let mount = Mount::make(EXT4.mkfs, &upper.node())?;
    let (path, bytes) = image(mount.dir(), "image", IMAGE)?;
    let ubd = device(&path)?;
    let mut user = RawUser::of(&ubd.node(), bytes)?;
    user.write(2)?;
    mostly_inline(&ubd, 1, || {
        user.write(100)?;
        user.read(100)?;
        Ok(200)
    })?;
    user.check(&path)
}

/// RLIMIT_FSIZE is for the submitter's files, not for the one behind the disk.
pub fn size_limit() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let _quiet = Quiet::udev()?;
    let node = ubd.node();
    let data = &image.bytes[..1 << 20];
    let source = "/tmp/fsize-data";
    std::fs::write(source, data)?;
    let writes = growth(&ubd, || {
        sh(format!(
            "prlimit --fsize=4096 -- dd if={source} of={node} bs=16k seek=100 oflag=direct conv=notrunc status=none"
        ))?;
        Ok(())
    });
    std::fs::remove_file(source)?;
    never_inline(&writes?, 64).context("writes with a limit")?;
    user.bytes[100 << 14..][..1 << 20].copy_from_slice(data);
    let reads = growth(&ubd, || {
        sh(format!(
            "prlimit --fsize=4096 -- dd if={node} of=/dev/null bs=16k iflag=direct status=none"
        ))?;
        Ok(())
    })?;
    let ios = (IMAGE >> 14) as u64;
    ensure!(
        reads["file_inline"] >= ios && reads["file_worker"] + reads["inline_eagain"] == 0,
        "reads with a limit: {}",
        reads.summary()
    );
    user.check(&image.path)
}

/// What the file's own page cache holds must be written or dropped first, which may take long.
pub fn cached_pages() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let fill = || sh(format!("cat {} > /dev/null", image.path.display()));
    fill()?;
    let writes = growth(&ubd, || user.write(100))?;
    ensure!(
        writes["inline_eagain"] > 0 && writes["inline_eagain"] + writes["file_worker"] >= 10,
        "writes over cached pages: {}",
        writes.summary()
    );
    fill()?;
    mostly_inline(&ubd, 1, || user.read(100).map(|()| 100))
        .context("reads of what is cached, but clean")?;
    let cached = std::fs::read(&image.path)?;
    crate::support::backing::same(&cached, &user.bytes)
        .context("the file, through its page cache")?;
    user.check(&image.path)
}
