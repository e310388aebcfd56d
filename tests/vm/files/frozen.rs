// SPDX-License-Identifier: MIT OR Apache-2.0
//! A frozen file system below: writes wait, reads do not.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::aio::Aio;
use super::{mostly_inline, Image, EXT4};
use crate::support::backing::noise;
use crate::support::io::{write_direct, Aligned};
use crate::support::{growth, seconds, sh, wait_for, Quiet};

/// A file system that is frozen, at once: a command would take its time.
struct Frozen(File);

const FIFREEZE: libc::Ioctl = 0xc004_5877;
const FITHAW: libc::Ioctl = 0xc004_5878;

impl Frozen {
    fn new(dir: &Path) -> Result<Frozen> {
        let dir = File::open(dir)?;
        // SAFETY: the argument is ignored.
        let done = unsafe { libc::ioctl(dir.as_raw_fd(), FIFREEZE, 0) };
        ensure!(done == 0, std::io::Error::last_os_error());
        Ok(Frozen(dir))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: the argument is ignored.
        unsafe { libc::ioctl(self.0.as_raw_fd(), FITHAW, 0) };
    }
}

/// More writes than there are threads that may wait.
const WRITES: usize = 8;
const BLOCK: usize = 16 << 10;

pub fn frozen() -> Result<()> {
    let image = Image::new(EXT4, 4 << 20)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    // udev reads what writers have closed, and would be counted.
    let _quiet = Quiet::udev()?;
    let node = ubd.node();
    thread::scope(|scope| {
        let frozen = Frozen::new(image.mount.dir())?;
        let writers: Vec<_> = (0..WRITES)
            .map(|n| {
                let node = &node;
                scope.spawn(move || write_direct(node, (n * BLOCK) as u64, noise(n * 512, BLOCK)))
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        let done = writers.iter().filter(|writer| writer.is_finished()).count();
        ensure!(done == 0, "{done} writes ended on a frozen file system");

        let model = user.bytes.split_off(WRITES * BLOCK);
        mostly_inline(&ubd, 1, || {
            // Behind the writes, whose outcome is open; then with a thread.
            let all = model.len() / BLOCK;
            for n in 0..60 {
                let at = (n * 7 % all) * BLOCK;
                let is =
                    crate::support::io::read_direct(&node, (WRITES * BLOCK + at) as u64, BLOCK)?;
                crate::support::backing::same(&is, &model[at..at + BLOCK])?;
            }
            Ok(60)
        })
        .context("reads meanwhile")?;
        sh(format!(
            "timeout {} dd if={node} of=/dev/null bs=64k skip=8 count=8 status=none",
            seconds(20).as_secs()
        ))
        .context("reads by a thread meanwhile")?;
        let done = writers.iter().filter(|writer| writer.is_finished()).count();
        ensure!(done == 0, "{done} writes ended on a frozen file system");

        drop(frozen);
        for writer in writers {
            writer.join().expect("a writer")?;
        }
        for n in 0..WRITES {
            user.bytes[n * BLOCK..][..BLOCK].copy_from_slice(noise(n * 512, BLOCK));
        }
        user.bytes.extend(model);
        user.check(&image.path)
    })?;
    mostly_inline(&ubd, 1, || user.write(50).map(|()| 50)).context("thawed")
}

/// Who submits and does not wait is not made to.
pub fn submitter() -> Result<()> {
    let image = Image::new(EXT4, 4 << 20)?;
    let ubd = image.device()?;
    let mut user = image.user(&ubd)?;
    let _quiet = Quiet::udev()?;
    let aio = Aio::new()?;
    // Once a second a write goes to a thread anyway, for the times.
    for round in 0..10 {
        user.write(1)?;
        let data = Aligned::copy_of(noise(round * 512, BLOCK), 0);
        let file = user.file().try_clone()?;
        let frozen = Frozen::new(image.mount.dir())?;
        let count = growth(&ubd, || {
            thread::scope(|scope| {
                let submits = scope.spawn(|| aio.write(&file, &data, 0));
                let returned = wait_for("io_submit to return", Duration::from_secs(10), || {
                    submits.is_finished()
                });
                let early = aio.end(false);
                drop(frozen);
                submits.join().expect("the submitter")?;
                ensure!(early?.is_none(), "a write ended on a frozen file system");
                returned
            })
        })?;
        ensure!(aio.end(true)? == Some(BLOCK as i64), "the write failed");
        user.bytes[..BLOCK].copy_from_slice(noise(round * 512, BLOCK));
        user.check(&image.path)?;
        if count["inline_eagain"] > 0 {
            return Ok(());
        }
    }
    anyhow::bail!("no write was tried inline")
}
