// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that cannot give what the slot promised: no space for a hole, or an end that has moved.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::{device, Fs, Image, EXT4};
use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, Aligned};
use crate::support::{growth, sh, RawUser};

const IMAGE: usize = 4 << 20;

/// Writes to holes fail like those to a full disk, and all else goes on.
pub fn no_space() -> Result<()> {
    let image = Image::new(Fs { mib: 24, ..EXT4 }, IMAGE)?;
    // The second half of the disk is a hole.
    sh(format!(
        "truncate -s {} {}",
        2 * IMAGE,
        image.path.display()
    ))?;
    let filler = image.mount.dir().join("filler");
    sh(format!(
        "dd if=/dev/zero of={} bs=64k status=none 2>&1 || sync",
        filler.display()
    ))?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let hole = Aligned::copy_of(noise(5, 64 << 10), 0);
    let before = ubd.counters()?;
    for n in 0..4 {
        let at = (IMAGE + n * hole.len()) as u64;
        match user.file().write_all_at(&hole, at) {
            Err(err) if err.raw_os_error() == Some(libc::ENOSPC) => {}
            other => bail!("a write without space gave {other:?}"),
        }
        user.write(20).context("overwrites go on")?;
        user.read(20).context("reads go on")?;
    }
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["write_declined"] >= 4 && count["file_inline"] >= 100,
        "{}",
        count.summary()
    );
    sh(format!("rm {}; sync", filler.display()))?;
    user.file()
        .write_all_at(&hole, IMAGE as u64)
        .context("writing, now that there is space")?;
    user.bytes.extend_from_slice(&hole);
    user.check(&image.path)
}

/// What a reader's memory holds before: it must not be taken for data.
const STALE: u8 = 0xa5;

/// Moves the end of the file behind the device `node` to and fro for `length`, while the device is
/// read and written. Gives how many I/Os were good, and how many failed: what is read is data or
/// zeroes, or there is an error.
pub fn look_while_truncated(
    node: &str,
    bytes: &[u8],
    file: &File,
    length: Duration,
    seed: u64,
) -> Result<(u64, u64)> {
    let size = bytes.len();
    let (stop, good, bad) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (stop, good, bad) = (&stop, &good, &bad);
    let look = |seed: u64| -> Result<()> {
        let disk = open_direct(node, true)?;
        let mut rng = fastrand::Rng::with_seed(seed);
        while !stop.load(Ordering::Relaxed) {
            let len = rng.usize(1..=64) * 512;
            let at = rng.usize(0..=(size - len) / 512) * 512;
            let mut is = Aligned::new(len);
            is.fill(STALE);
            // Now and then a write of what should be there anyhow.
            let ret = if rng.u8(..) < 40 {
                is.copy_from_slice(&bytes[at..at + len]);
                disk.write_all_at(&is, at as u64)
            } else {
                disk.read_exact_at(&mut is, at as u64)
            };
            if let Err(err) = ret {
                ensure!(err.raw_os_error() == Some(libc::EIO), "I/O at {at}: {err}");
                bad.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if is[..] != bytes[at..at + len] {
                // The end may lie within a sector.
                let bad = is
                    .iter()
                    .zip(&bytes[at..])
                    .position(|(is, was)| is != was && *is != 0);
                ensure!(
                    bad.is_none(),
                    "of {len} bytes at {at} byte {bad:?} is neither data nor zero"
                );
            }
            good.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|n| scope.spawn(move || look(seed.wrapping_add(n))))
            .collect();
        let start = Instant::now();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut moved = || -> Result<()> {
            while start.elapsed() < length {
                file.set_len(rng.u64(0..size as u64))?;
                thread::sleep(Duration::from_millis(rng.u64(0..15)));
                file.set_len(size as u64)?;
                thread::sleep(Duration::from_millis(rng.u64(0..15)));
            }
            Ok(())
        };
        let moved = moved();
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("a reader")?;
        }
        moved
    })?;
    Ok((good.load(Ordering::Relaxed), bad.load(Ordering::Relaxed)))
}

pub fn truncated() -> Result<()> {
    let image = Image::new(EXT4, IMAGE)?;
    let ubd = device(&image.path)?;
    let file = OpenOptions::new().write(true).open(&image.path)?;
    let node = ubd.node();
    let (good, bad) = look_while_truncated(&node, &image.bytes, &file, Duration::from_secs(3), 7)?;
    ensure!(
        good > 100 && bad > 10,
        "{good} I/Os were good, {bad} failed"
    );

    // A write behind the end goes to the daemon: an error, or it is there to be read.
    file.set_len(IMAGE as u64 / 2)?;
    let mut user = RawUser::of(&node, image.bytes[..IMAGE / 2].to_vec())?;
    let (at, data) = (3 << 20, Aligned::copy_of(noise(11, 8192), 0));
    let mut is = Aligned::new(data.len());
    match user.file().write_all_at(&data, at) {
        Ok(()) => {
            user.file().read_exact_at(&mut is, at)?;
            same(&is, &data).context("a write behind the end")?;
        }
        Err(err) => ensure!(
            err.raw_os_error() == Some(libc::EIO) && user.file().read_at(&mut is, at).is_err(),
            "a write behind the end: {err}"
        ),
    }
    let data = Aligned::copy_of(&image.bytes[..IMAGE / 2], 0);
    user.file().write_all_at(&data, 0)?;
    let count = growth(&ubd, || user.read(50))?;
    ensure!(count["file_inline"] >= 40, "{}", count.summary());
    user.check(&image.path)
}
