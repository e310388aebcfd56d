// SPDX-License-Identifier: MIT OR Apache-2.0
//! A frozen file system below: writes wait, reads do not.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{mostly_inline, Image, EXT4};
use crate::support::backing::noise;
use crate::support::io::write_direct;
use crate::support::{growth, seconds, sh, Quiet};

struct Frozen<'a>(&'a Path);

impl Frozen<'_> {
    fn new(dir: &Path) -> Result<Frozen<'_>> {
        sh(format!("fsfreeze -f {}", dir.display()))?;
        Ok(Frozen(dir))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = sh(format!("fsfreeze -u {}", self.0.display()));
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

        let start = Instant::now();
        let model = user.bytes.split_off(WRITES * BLOCK);
        let count = growth(&ubd, || {
            // Behind the writes, whose outcome is open; then with a thread.
            let all = model.len() / BLOCK;
            for n in 0..60 {
                let at = (n * 7 % all) * BLOCK;
                let is =
                    crate::support::io::read_direct(&node, (WRITES * BLOCK + at) as u64, BLOCK)?;
                crate::support::backing::same(&is, &model[at..at + BLOCK])?;
            }
            Ok(())
        })?;
        mostly_inline(&count, 60, start.elapsed(), 1).context("reads meanwhile")?;
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
    let start = Instant::now();
    let count = growth(&ubd, || user.write(50))?;
    mostly_inline(&count, 50, start.elapsed(), 1).context("thawed")
}
