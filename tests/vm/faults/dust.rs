// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk with bad blocks, which it can map away when they are written to.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Result};

use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, Aligned};
use crate::support::{growth, Dm, Quiet, RamDisk, Way};

const BLOCK: usize = 512;
/// The bad ones.
const BAD: [usize; 4] = [100, 101, 2047, 5000];

struct Dust {
    dm: Dm,
    _ram: RamDisk,
}

impl Dust {
    fn new() -> Result<Dust> {
        let ram = RamDisk::new()?;
        let table = format!("0 8192 dust {} 0 {BLOCK}", ram.node());
        let dm = Dm::new("ubddust", "dm-dust", &table)?;
        Ok(Dust { dm, _ram: ram })
    }
}

/// Reads that touch a bad block fail, others do not; a write heals.
pub fn heals(way: Way) -> Result<()> {
    let dust = Dust::new()?;
    let (ubd, _prog) = way.device(&dust.dm.node(), "")?;
    let _quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(1, 2 << 20), 0);
    let count = growth(&ubd, || {
        file.write_all_at(&data, 0)?;
        file.write_all_at(&data, 2 << 20)?;
        for block in BAD {
            dust.dm.message(&format!("addbadblock {block}"))?;
        }
        dust.dm.message("enable")?;
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
