// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is behind a slot fails: so does the request, with that error, and nothing else.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::server::{Device, Setup};
use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, Aligned};
use crate::support::mount::{image, Mount};
use crate::support::{growth, sh, Dm, NullDisk, RamDisk, Ubd};

const STALE: u8 = 0xa5;
const EXT4: &str = "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=1 -J size=4";

/// The first MiB is good, the second fails, the third is good.
pub struct BadDisk {
    dm: Dm,
    _ram: RamDisk,
}

impl BadDisk {
    pub fn new() -> Result<BadDisk> {
        let ram = RamDisk::new()?;
        let node = ram.node();
        let table =
            format!("0 2048 linear {node} 0\\n2048 2048 error\\n4096 12288 linear {node} 4096\\n");
        let dm = Dm::new("ubdbad", "dm-mod", &table)?;
        Ok(BadDisk { dm, _ram: ram })
    }

    pub fn node(&self) -> String {
        self.dm.node()
    }
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Sectors that cannot be read or written, in whole and in part of a request.
pub fn bad_disk() -> Result<()> {
    let bad = BadDisk::new()?;
    let node = bad.node();
    let slots = [(Path::new(&node), true)];
    let device = Device::start(&Setup::new(&slots, 4 << 11), |event| event.forward())?;
    let file = open_direct(device.ubd.node(), true)?;
    const MIB: u64 = 1 << 20;
    let count = growth(&device.ubd, || {
        for (at, bad) in [
            (0, false),
            (MIB, true),
            (MIB - 4096, true),
            (2 * MIB, false),
        ] {
            let expected = bad.then_some(libc::EIO);
            let data = Aligned::copy_of(noise(at as usize, 8192), 0);
            let written = errno(file.write_all_at(&data, at));
            ensure!(written == expected, "write at {at}: {written:?}");
            let mut is = Aligned::new(8192);
            let read = errno(file.read_exact_at(&mut is, at));
            ensure!(read == expected, "read at {at}: {read:?}");
            if !bad {
                same(&is, &data)?;
            }
        }
        Ok(())
    })?;
    ensure!(
        count["forwarded"] == 8 && count["declined"] == 8,
        "{}",
        count.summary()
    );
    drop(file);
    device.end()
}

/// A file that ends before its slot: an error for readers, who get nothing that was in memory, and
/// for writers, who do not make it longer.
pub fn truncated() -> Result<()> {
    let disk = NullDisk::new(64, 512, &[])?;
    let mount = Mount::make(EXT4, &disk.node())?;
    let (path, bytes) = image(mount.dir(), "image", 4 << 20)?;
    let ubd = Ubd::add(&[
        "-t loop --direct-io=on --forward -f",
        &path.to_string_lossy(),
    ])?;
    let open = open_direct(ubd.node(), true)?;
    OpenOptions::new()
        .write(true)
        .open(&path)?
        .set_len(1 << 20)?;
    let count = growth(&ubd, || {
        // Wholly and partly behind the end.
        for at in [2 << 20, (1 << 20) - 4096] {
            let mut is = Aligned::new(8192);
            is.fill(STALE);
            let read = errno(open.read_exact_at(&mut is, at));
            ensure!(read == Some(libc::EIO), "read at {at}: {read:?}");
            let data = &bytes[at as usize..][..8192];
            ensure!(
                is.iter().zip(data).all(|(is, was)| *is == 0 || is == was),
                "a failed read at {at} left something else than zeroes"
            );
            let written = errno(open.write_all_at(&Aligned::copy_of(noise(1, 8192), 0), at));
            ensure!(written == Some(libc::EIO), "write at {at}: {written:?}");
        }
        Ok(())
    })?;
    ensure!(count["forwarded"] == 4, "{}", count.summary());
    ensure!(path.metadata()?.len() == 1 << 20, "the file has grown");
    let mut is = Aligned::new(8192);
    open.read_exact_at(&mut is, 0)?;
    same(&is, &bytes[..8192])
}

/// No space for a hole: the writer hears of it, and the daemon, which could do nothing, does not.
pub fn full() -> Result<()> {
    const IMAGE: u64 = 4 << 20;
    let disk = NullDisk::new(24, 512, &[])?;
    let mount = Mount::make(EXT4, &disk.node())?;
    let (path, _) = image(mount.dir(), "image", IMAGE as usize)?;
    let filler = mount.dir().join("filler");
    sh(format!(
        "truncate -s {} {}; dd if=/dev/zero of={} bs=64k status=none 2>&1 || sync",
        2 * IMAGE,
        path.display(),
        filler.display()
    ))?;
    let ubd = Ubd::add(&[
        "-t loop --direct-io=on --forward -f",
        &path.to_string_lossy(),
    ])?;
    let open = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(5, 64 << 10), 0);
    let count = growth(&ubd, || {
        for n in 0..4 {
            let written = errno(open.write_all_at(&data, IMAGE + n * (64 << 10)));
            ensure!(
                written == Some(libc::ENOSPC),
                "a write without space: {written:?}"
            );
            open.write_all_at(&data, n * (64 << 10))
                .context("an overwrite")?;
        }
        Ok(())
    })?;
    ensure!(
        count["forwarded"] == 8 && count["declined"] == 8,
        "{}",
        count.summary()
    );
    sh(format!("rm {}; sync", filler.display()))?;
    open.write_all_at(&data, IMAGE)
        .context("with space again")?;
    let mut is = Aligned::new(data.len());
    open.read_exact_at(&mut is, IMAGE)?;
    same(&is, &data)
}
