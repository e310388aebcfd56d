// SPDX-License-Identifier: MIT OR Apache-2.0
//! Discard and write zeroes on a file: done by it, or withdrawn.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::{device, Fs, Image, EXT4};
use crate::support::io::{discard, zero_out};
use crate::support::mount::{image, Mount};
use crate::support::{growth, needs, wait_for, RamDisk, RawUser, Ubd};

const IMAGE: usize = 4 << 20;
const MIB: usize = 1 << 20;

/// Bytes that a file occupies.
fn allocated(path: &Path) -> Result<u64> {
    Ok(path.metadata()?.blocks() * 512)
}

/// Holes where it was discarded; zeroes, still allocated, where zeroes were asked for in place.
pub fn punched() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let full = allocated(&image.path)?;
    let mib = MIB as u64;

    let count = growth(&ubd, || Ok(discard(user.file(), mib, mib)?))?;
    ensure!(
        count["discard_mapped"] > 0 && count["declined"] == 0 && count["file_inline"] == 0,
        "discard: {}",
        count.summary()
    );
    let left = allocated(&image.path)?;
    ensure!(left == full - mib, "of {full} bytes {left} are left");
    user.bytes[MIB..2 * MIB].fill(0);

    let count = growth(&ubd, || Ok(zero_out(user.file(), 2 * mib, mib)?))?;
    ensure!(
        count["write_zeroes_mapped"] > 0 && count["declined"] == 0 && count["file_inline"] == 0,
        "write zeroes: {}",
        count.summary()
    );
    ensure!(
        allocated(&image.path)? == left,
        "zeroes in place gave up space"
    );
    user.bytes[2 * MIB..3 * MIB].fill(0);
    user.check(&image.path)?;
    user.write(50)?;
    user.check(&image.path)
}

/// A limit of the front, bytes, by the name of its attribute.
fn limit(ubd: &Ubd, name: &str) -> u64 {
    let text = ubd.attr(&format!("queue/{name}"));
    text.ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Without extents ext4 cannot zero a range: the daemon writes the zeroes, and discards go on.
pub fn no_zero_range() -> Result<()> {
    let mkfs = "mkfs.ext4 -q -F -O ^extent,^64bit -E nodiscard,lazy_itable_init=0 -J size=4";
    let image = Image::new(Fs { mkfs, ..EXT4 }, IMAGE)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let full = allocated(&image.path)?;
    let mib = MIB as u64;
    let count = growth(&ubd, || Ok(zero_out(user.file(), mib, mib)?))?;
    ensure!(
        count["write_zeroes_mapped"] > 0 && count["write_zeroes_declined"] > 0,
        "{}",
        count.summary()
    );
    user.bytes[MIB..2 * MIB].fill(0);
    user.check(&image.path)?;
    ensure!(allocated(&image.path)? == full, "zeroes gave up space");
    let count = growth(&ubd, || Ok(discard(user.file(), 0, mib)?))?;
    ensure!(
        count["discard_mapped"] > 0 && count["declined"] == 0,
        "{}",
        count.summary()
    );
    ensure!(allocated(&image.path)? < full, "a discard gave up no space");
    user.bytes[..MIB].fill(0);
    user.check(&image.path)
}

/// A file system of 32 MiB without holes.
fn fat16(node: &str) -> Result<()> {
    const SECTORS: u16 = 65_000;
    const PER_FAT: u16 = 64;
    let mut boot = [0; 512];
    boot[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    boot[3..11].copy_from_slice(b"ubdtest ");
    boot[11..13].copy_from_slice(&512u16.to_le_bytes());
    boot[13] = 4; // sectors a cluster
    boot[14..16].copy_from_slice(&1u16.to_le_bytes()); // reserved sectors
    boot[16] = 2; // FATs
    boot[17..19].copy_from_slice(&512u16.to_le_bytes()); // entries of the root
    boot[19..21].copy_from_slice(&SECTORS.to_le_bytes());
    boot[21] = 0xf8;
    boot[22..24].copy_from_slice(&PER_FAT.to_le_bytes());
    boot[38] = 0x29;
    boot[54..62].copy_from_slice(b"FAT16   ");
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = std::fs::OpenOptions::new().write(true).open(node)?;
    disk.write_all_at(&boot, 0)?;
    for fat in 0..2 {
        let at = 512 * (1 + u64::from(PER_FAT) * fat);
        disk.write_all_at(&[0xf8, 0xff, 0xff, 0xff], at)?;
    }
    Ok(disk.sync_all()?)
}

/// FAT knows no holes: discards do nothing, and are no longer offered after the first.
pub fn no_punch() -> Result<()> {
    needs("vfat")?;
    let disk = RamDisk::new()?;
    fat16(&disk.node())?;
    let mount = Mount::existing(&disk.node())?;
    let (path, bytes) = image(mount.dir(), "image", IMAGE)?;
    let ubd = device(&path)?;
    let mut user = RawUser::of(&ubd.node(), bytes)?;
    user.write(20)?;
    let mib = MIB as u64;
    ensure!(
        limit(&ubd, "discard_max_bytes") > 0,
        "discards were never offered"
    );
    let count = growth(&ubd, || {
        // The block layer forgives a disk that turns out not to discard.
        Ok(discard(user.file(), 0, mib)?)
    })?;
    ensure!(
        count["discard_mapped"] > 0 && count["discard_declined"] > 0,
        "{}",
        count.summary()
    );
    wait_for("discard to be withdrawn", Duration::from_secs(5), || {
        limit(&ubd, "discard_max_bytes") == 0
    })?;
    let errno = discard(user.file(), 0, mib)
        .err()
        .and_then(|err| err.raw_os_error());
    ensure!(
        errno == Some(libc::EOPNOTSUPP),
        "a withdrawn discard gave {errno:?}"
    );
    user.check(&path)?;
    zero_out(user.file(), mib, mib)?;
    user.bytes[MIB..2 * MIB].fill(0);
    user.read(20)?;
    user.check(&path)
}
