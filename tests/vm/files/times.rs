// SPDX-License-Identifier: MIT OR Apache-2.0
//! The times of the file: right within a second, and no reason for a write to go to a thread.

use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use nix::time::{clock_gettime, ClockId};

use super::{Image, EXT4};
use crate::support::{growth, wait_for};

impl Image {
    fn mtime(&self) -> Result<Duration> {
        let meta = self.path.metadata()?;
        Ok(Duration::new(meta.mtime() as u64, meta.mtime_nsec() as u32))
    }

    fn atime(&self) -> Result<Duration> {
        let meta = self.path.metadata()?;
        Ok(Duration::new(meta.atime() as u64, meta.atime_nsec() as u32))
    }
}

/// The time that stamps files: as of the last tick, which may be a while ago on a busy machine.
fn now() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
    Ok(now.into())
}

pub fn times() -> Result<()> {
    let image = Image::new(EXT4, 4 << 20)?;
    let made = (image.mtime()?, image.atime()?);
    sleep(Duration::from_millis(50));
    let ubd = image.device()?;
    let mut user = crate::support::RawUser::of(&ubd.node(), image.bytes.clone())?;
    let reads = growth(&ubd, || user.read(50))?;
    ensure!(reads["file_inline"] >= 50, "{}", reads.summary());
    user.file().sync_all()?;
    ensure!(
        (image.mtime()?, image.atime()?) == made,
        "reads moved the file's times"
    );

    let first = now()?;
    user.write(1)?;
    ensure!(image.mtime()? >= first, "the first write moves the time");
    // As long as somebody writes, it follows.
    let later = now()?;
    wait_for("the file's time to follow", Duration::from_secs(3), || {
        user.write(1).is_ok() && image.mtime().is_ok_and(|time| time >= later)
    })?;

    // A flush says when the last write was, and so does the end of the device.
    let write = |user: &mut crate::support::RawUser| -> Result<Duration> {
        for _ in 0..20 {
            let last = now()?;
            let count = growth(&ubd, || user.write(1))?;
            if count["file_inline"] == 1 && image.mtime()? < last {
                return Ok(last);
            }
            sleep(Duration::from_millis(50));
        }
        anyhow::bail!("each write moved the file's time")
    };
    let last = write(&mut user)?;
    user.file().sync_all()?;
    ensure!(
        image.mtime()? >= last,
        "a flush leaves the file's time behind"
    );
    sleep(Duration::from_millis(50));
    let last = write(&mut user)?;
    user.check(&image.path)?;
    drop(user);
    ubd.del()?;
    ensure!(
        image.mtime()? >= last,
        "`ubd del` leaves the file's time behind"
    );
    Ok(())
}

pub fn no_bounce() -> Result<()> {
    let image = Image::new(EXT4, 4 << 20)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let start = Instant::now();
    let count = growth(&ubd, || user.write(2000))?;
    let seconds = start.elapsed().as_secs();
    ensure!(
        count["file_inline"] >= 1980 && count["file_worker"] <= seconds + 5,
        "of 2000 overwrites within {seconds} s: {}",
        count.summary()
    );
    user.check(&image.path)
}
