// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd add --forward`: the bytes are right, wherever they are.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{ensure, Context, Result};

use crate::support::backing::{noise, same, Backing, Kind};
use crate::support::io::{open_direct, read_direct, write_flags, Aligned};
use crate::support::model::{Done, Model};
use crate::support::mount::{image, Mount};
use crate::support::{growth, sh, traced, Counters, Fio, NullDisk, Prog, RamDisk, RawUser, Ubd};

const XFS: &str = "mkfs.xfs -q -f -K";

/// Every declined read and write was forwarded, to the sector; and there were some.
fn all_forwarded(count: &Counters) -> Result<()> {
    for op in ["read", "write"] {
        let sectors = count[&format!("{op}_forwarded_sectors")];
        ensure!(
            sectors > 0 && sectors == count[&format!("{op}_declined_sectors")],
            "not all {op}s were forwarded: {}",
            count.summary()
        );
    }
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    Ok(())
}

/// Random operations against a model, then a look at the backing itself. `declined` percent are
/// left to the daemon, or all.
pub fn model(kind: Kind, declined: Option<u32>) -> Result<()> {
    let backing = Backing::new(kind)?;
    let prog = match declined {
        Some(percent) => Some(Prog::load(
            "decline_random",
            &[&format!("percent={percent}")],
        )?),
        None => None,
    };
    let fastpath = prog
        .as_ref()
        .map(|prog| format!("--bpf-fastpath={}", prog.name()))
        .unwrap_or_default();
    let ubd = backing.device(&format!("--forward -q 2 {fastpath}"))?;
    let mut model = Model::of(&ubd, backing.shown(), kind.clears())?;
    let mut done = Done::default();
    let count = growth(&ubd, || {
        done = model
            .run(&ubd.node(), 11, 250)
            .context("the device is not as its model")?;
        Ok(())
    })?;
    all_forwarded(&count)?;
    ensure!(
        (count["read_mapped"] > 0) == declined.is_some(),
        "{}",
        count.summary()
    );
    if kind.clears() && declined.is_none() {
        ensure!(
            count["discard_forwarded"] >= done.discards && done.discards > 0,
            "{done:?}; {}",
            count.summary()
        );
    }
    ensure!(
        count["flush_slots"] > 0,
        "the slot was not flushed: {}",
        count.summary()
    );
    ubd.del()?;
    backing
        .check(&model.bytes)
        .context("the backing is not as the model")
}

/// The same on a file of XFS.
pub fn model_on_xfs() -> Result<()> {
    let disk = NullDisk::new(320, 512, &[])?;
    let mount = Mount::make(XFS, &disk.node())?;
    let (path, bytes) = image(mount.dir(), "image", 8 << 20)?;
    let ubd = Ubd::add(&[
        "-t loop --direct-io=on --forward -q 2 -f",
        &path.to_string_lossy(),
    ])?;
    let mut model = Model::of(&ubd, bytes, true)?;
    all_forwarded(&growth(&ubd, || model.run(&ubd.node(), 12, 250).map(drop))?)?;
    ubd.del()?;
    let is = read_direct(&path, 0, model.bytes.len())?;
    same(&is, &model.bytes).context("the file")?;
    mount.check("xfs_repair -n")
}

/// Requests that cross chunks are forwarded part by part.
pub fn model_on_stripe() -> Result<()> {
    let disks = [RamDisk::new()?, RamDisk::new()?];
    let nodes = disks.each_ref().map(RamDisk::node);
    for node in &nodes {
        sh(format!(
            "dd if=/dev/urandom of={node} bs=1M count=4 oflag=direct status=none"
        ))?;
    }
    let ubd = Ubd::add(&[
        "-t stripe --chunk 8K --forward -q 2 --max-io-size 1M",
        &format!("-f {} -f {}", nodes[0], nodes[1]),
    ])?;
    // The start of the device is the start of both, dealt out again.
    let halves = [
        read_direct(&nodes[0], 0, 4 << 20)?,
        read_direct(&nodes[1], 0, 4 << 20)?,
    ];
    let shown: Vec<u8> = halves[0]
        .chunks(8192)
        .zip(halves[1].chunks(8192))
        .flat_map(|(a, b)| [a, b].concat())
        .collect();
    // The rest is far away.
    let size = shown.len();
    let node = ubd.node();
    let mut user = RawUser::of(&node, shown)?;
    let count = growth(&ubd, || {
        user.read(150)?;
        user.write(150)
    })?;
    all_forwarded(&count)?;
    ensure!(
        count["forwarded"] > 600,
        "no request was cut: {}",
        count.summary()
    );
    let mut is = Aligned::new(size);
    user.file().read_exact_at(&mut is, 0)?;
    same(&is, &user.bytes)?;
    drop(user);
    ubd.del()?;
    for (number, node) in nodes.iter().enumerate() {
        let is = read_direct(node, 0, size / 2)?;
        ensure!(is != halves[number], "nothing was written to {node}");
    }
    Ok(())
}

/// A disk that ends its I/O in interrupts, with all queues at work.
pub fn interrupts() -> Result<()> {
    let settings = [("irqmode", "2"), ("completion_nsec", "50000")];
    let disk = NullDisk::new(64, 512, &settings)?;
    let ubd = Ubd::add(&["-t loop --forward -q 2 -f", &disk.node()])?;
    let mut ios = 0;
    let count = growth(&ubd, || {
        ios = Fio::verify(&ubd.node(), 1500)
            .option("numjobs=2")
            .option("size=16m")
            .option("offset_increment=16m")
            .run()?;
        Ok(())
    })?;
    ensure!(
        count["forwarded"] >= ios.min(1000) && ios >= 1000,
        "of {ios}: {}",
        count.summary()
    );
    all_forwarded(&count)
}

/// One request of 64 KiB, and one of 1 MiB.
pub fn large() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop --forward --max-io-size 1M -f", &disk.node()])?;
    let file = open_direct(ubd.node(), true)?;
    for len in [64 << 10, 1 << 20] {
        let data = Aligned::copy_of(noise(len, len), 0);
        let count = growth(&ubd, || Ok(file.write_all_at(&data, 3 << 20)?))?;
        ensure!(
            count["write_forwarded"] == 1 && count["write_forwarded_sectors"] == len as u64 / 512,
            "{}",
            count.summary()
        );
        let mut is = Aligned::new(len);
        let count = growth(&ubd, || Ok(file.read_exact_at(&mut is, 3 << 20)?))?;
        ensure!(count["read_forwarded"] == 1, "{}", count.summary());
        same(&is, &data)?;
        same(&read_direct(disk.node(), 3 << 20, len)?, &data).context("the disk")?;
    }
    Ok(())
}

/// On a file the daemon's own task calls the file system, and no thread.
pub fn inline() -> Result<()> {
    let disk = NullDisk::new(320, 512, &[])?;
    let mount = Mount::make(XFS, &disk.node())?;
    let (path, bytes) = image(mount.dir(), "image", 8 << 20)?;
    let ubd = Ubd::add(&[
        "-t loop --direct-io=on --forward -f",
        &path.to_string_lossy(),
    ])?;
    let mut user = RawUser::of(&ubd.node(), bytes)?;
    user.write(2)?;
    // The second time somebody claims the device, whose locks are not the daemon's.
    for claimed in [false, true] {
        let _claim = claimed
            .then(|| {
                let mut options = OpenOptions::new();
                options.read(true).custom_flags(libc::O_EXCL);
                options.open(ubd.node())
            })
            .transpose()?;
        let count = growth(&ubd, || user.read(100))?;
        ensure!(
            count["read_forwarded"] == 100 && count["file_inline"] >= 90,
            "{}",
            count.summary()
        );
    }
    user.check(&path)
}

/// FUA arrives as FUA, and a plain write without.
pub fn fua() -> Result<()> {
    let settings = [("cache_size", "8"), ("fua", "1")];
    let disk = NullDisk::new(64, 512, &settings)
        // Before 6.11 null_blk had no such setting, and FUA went with the cache.
        .or_else(|_| NullDisk::new(64, 512, &settings[..1]))?;
    let fua = fs::read_to_string(format!("/sys/block/{}/queue/fua", disk.name()))?;
    ensure!(fua.trim() == "1", "null_blk has no FUA");
    let ubd = Ubd::add(&["-t loop --forward -f", &disk.node()])?;
    let file = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(3, 4096), 0);
    for (flags, has_fua) in [(0, false), (libc::RWF_DSYNC, true)] {
        let mut counted = None;
        let lines = traced(&disk, || {
            counted = Some(growth(&ubd, || {
                Ok(write_flags(&file, &data, 8192, flags).map(drop)?)
            })?);
            Ok(())
        })?;
        let count = counted.context("nothing was counted")?;
        ensure!(count["write_forwarded"] == 1, "{}", count.summary());
        ensure!(
            lines.contains("WFS") == has_fua && lines.contains("WS") | has_fua,
            "flags {flags:#x} became:\n{lines}"
        );
    }
    Ok(())
}
