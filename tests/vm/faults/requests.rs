// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block layer refuses bios, of the device or of the disk below: what was refused is an error for
//! whoever asked, and has changed nothing.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, ensure, Result};
use fastrand::Rng;

use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, read_direct, write_direct, Aligned};
use crate::support::{growth, sh, Quiet, RamDisk, Skip, Way};

const KNOBS: &str = "/sys/kernel/debug/fail_make_request";
const PERCENT: usize = 25;
const BYTES: usize = 2 << 20;
const BLOCK: usize = 4096;
const TRIES: usize = 600;

/// While it lives, one bio in four is refused by a disk.
struct Refusal<'a> {
    disk: &'a str,
}

impl<'a> Refusal<'a> {
    /// `disk` is the kernel's name of it.
    fn new(disk: &'a str) -> Result<Refusal<'a>> {
        let refusal = Refusal { disk };
        sh(format!(
            "echo 1 > /sys/block/{disk}/make-it-fail; cd {KNOBS}; echo 0 > verbose
             echo 1 > interval; echo -1 > times; echo {PERCENT} > probability"
        ))?;
        Ok(refusal)
    }
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        let _ = sh(format!(
            "echo 0 > {KNOBS}/probability; echo 0 > /sys/block/{}/make-it-fail",
            self.disk
        ));
    }
}

/// Whether it was done; any error but EIO is not expected.
fn done(result: io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(err) if err.raw_os_error() == Some(libc::EIO) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

pub fn refused(way: Way) -> Result<()> {
    if !Path::new(KNOBS).exists() {
        bail!(Skip("the kernel cannot make requests fail".into()));
    }
    let below = RamDisk::new()?;
    let mut model = noise(5, BYTES).to_vec();
    write_direct(below.node(), 0, &model)?;
    let (ubd, prog) = way.device(&below.node(), "")?;
    let _quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let mut rng = Rng::with_seed(0x6672);
    let (node, below_node) = (ubd.node(), below.node());
    let count = growth(&ubd, || {
        for disk in [&node, &below_node] {
            let refusal = Refusal::new(disk.trim_start_matches("/dev/"))?;
            let mut failed = [0; 3];
            for number in 0..TRIES {
                let at = rng.usize(..BYTES / BLOCK) * BLOCK;
                let kind = number % 3;
                let good = match kind {
                    0 => {
                        let mut is = Aligned::new(BLOCK);
                        let good = done(file.read_exact_at(&mut is, at as u64))?;
                        if good {
                            same(&is, &model[at..at + BLOCK])?;
                        }
                        good
                    }
                    1 => {
                        let data = Aligned::copy_of(noise(number, BLOCK), 0);
                        let good = done(file.write_all_at(&data, at as u64))?;
                        if good {
                            model[at..at + BLOCK].copy_from_slice(&data);
                        }
                        good
                    }
                    _ => done(file.sync_data())?,
                };
                failed[kind] += usize::from(!good);
            }
            drop(refusal);
            let expected = TRIES / 3 * PERCENT / 100;
            println!("{disk}: failed reads, writes, flushes: {failed:?}");
            ensure!(
                failed
                    .iter()
                    .all(|failed| (expected / 2..expected * 2).contains(failed)),
                "of {TRIES} I/Os on {disk} these failed: {failed:?}"
            );
            same(&read_direct(&node, 0, BYTES)?, &model)?;
            same(&read_direct(&below_node, 0, BYTES)?, &model)?;
        }
        Ok(())
    })?;
    way.check(&["read", "write"], &count)?;
    drop(file);
    ubd.del()?;
    drop(prog);
    Ok(())
}
