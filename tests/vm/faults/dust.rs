// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk with bad blocks, which it can map away when they are written to.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Result};

use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, Aligned};
use crate::support::{growth, sh, Quiet, RamDisk, Skip, Way};

const NAME: &str = "ubddust";
const BLOCK: usize = 512;
/// The bad ones.
const BAD: [usize; 4] = [100, 101, 2047, 5000];

struct Dust {
    _ram: RamDisk,
}

impl Dust {
    fn new() -> Result<Dust> {
        sh("modprobe dm-dust").map_err(|_| Skip("the kernel has no dm-dust".into()))?;
        let ram = RamDisk::new()?;
        let node = ram.node();
        sh(format!(
            "dmsetup create {NAME} --table '0 8192 dust {node} 0 {BLOCK}'
             udevadm settle --timeout=60"
        ))?;
        Ok(Dust { _ram: ram })
    }
}

impl Drop for Dust {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = sh(format!("dmsetup remove --retry {NAME}"));
    }
}

/// Reads that touch a bad block fail, others do not; a write heals.
pub fn heals(way: Way) -> Result<()> {
    let _dust = Dust::new()?;
    let (ubd, _prog) = way.device(&format!("/dev/mapper/{NAME}"), "")?;
    let _quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(1, 2 << 20), 0);
    let count = growth(&ubd, || {
        file.write_all_at(&data, 0)?;
        file.write_all_at(&data, 2 << 20)?;
        for block in BAD {
            sh(format!("dmsetup message {NAME} 0 addbadblock {block}"))?;
        }
        sh(format!("dmsetup message {NAME} 0 enable"))?;
        let mut healed = Vec::new();
        for round in 0..=BAD.len() {
            for start in (0..8192).step_by(64).chain(95..105) {
                let mut is = Aligned::new(3 * BLOCK);
                let blocks = start..start + 3;
                let bad = BAD
                    .iter()
                    .any(|bad| blocks.contains(bad) && !healed.contains(bad));
                let read = file.read_exact_at(&mut is, (start * BLOCK) as u64);
                let errno = read.err().and_then(|err| err.raw_os_error());
                ensure!(
                    errno == bad.then_some(libc::EIO),
                    "round {round}, blocks {blocks:?}: {errno:?}"
                );
                if !bad {
                    let at = start * BLOCK % data.len();
                    same(&is, &data[at..at + 3 * BLOCK])?;
                }
            }
            if let Some(block) = BAD.get(round) {
                let at = block * BLOCK;
                let from = at % data.len();
                let data = Aligned::copy_of(&data[from..from + BLOCK], 0);
                file.write_all_at(&data, at as u64)?;
                healed.push(*block);
            }
        }
        Ok(())
    })?;
    way.check(&["read", "write"], &count)?;
    drop(file);
    ubd.del()
}
