// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk parts of which fail when they are told to.

use std::ops::Range;

use anyhow::{Context, Result};

use crate::support::{Dm, NullDisk};

/// What the bad parts do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Reads and writes fail.
    All,
    Reads,
    Writes,
    /// Writes are forgotten, and said to have been done.
    Forgets,
}

impl Fault {
    pub fn fails(self, write: bool) -> bool {
        match self {
            Fault::All => true,
            Fault::Reads => !write,
            Fault::Writes => write,
            Fault::Forgets => false,
        }
    }
}

/// The disk, which has a volatile cache. Good at first.
pub struct Flaky {
    dm: Dm,
    sectors: u64,
    disk: NullDisk,
}

impl Flaky {
    pub fn new(number: u32, mib: u64) -> Result<Flaky> {
        let disk = NullDisk::new(mib, 512, &[("cache_size", "8")])?;
        let sectors = mib << 11;
        let table = format!("0 {sectors} linear {} 0", disk.node());
        let dm = Dm::new(&format!("ubdflaky{number}"), "dm-flakey", &table)?;
        Ok(Flaky { dm, sectors, disk })
    }

    pub fn node(&self) -> String {
        self.dm.node()
    }

    /// The parts `bad`, in sectors, do `fault` from now on; or nothing does.
    pub fn set(&self, bad: &[Range<u64>], fault: Option<Fault>) -> Result<()> {
        self.dm
            .change(&self.table(bad, fault))
            .context("failed to change the disk")
    }

    fn table(&self, bad: &[Range<u64>], fault: Option<Fault>) -> String {
        let node = self.disk.node();
        let good = |part: &Range<u64>| match part.end - part.start {
            0 => String::new(),
            len => format!("{} {len} linear {node} {}\\n", part.start, part.start),
        };
        let Some(fault) = fault else {
            return good(&(0..self.sectors));
        };
        let mut table = String::new();
        let mut at = 0;
        for part in bad {
            let (start, len) = (part.start, part.end - part.start);
            // Never up, and down for a minute, again and again.
            let flakey = |how| format!("{start} {len} flakey {node} {start} 0 60 1 {how}\\n");
            table += &good(&(at..start));
            table += &match fault {
                Fault::All => format!("{start} {len} error\\n"),
                Fault::Reads => flakey("error_reads"),
                Fault::Writes => flakey("error_writes"),
                Fault::Forgets => flakey("drop_writes"),
            };
            at = part.end;
        }
        table + &good(&(at..self.sectors))
    }
}
