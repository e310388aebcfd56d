// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk parts of which fail when they are told to.

use std::ops::Range;

use anyhow::{Context, Result};

use crate::support::{sh, NullDisk};

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
    name: String,
    sectors: u64,
    disk: NullDisk,
}

impl Flaky {
    pub fn new(number: u32, mib: u64) -> Result<Flaky> {
        sh("modprobe dm-flakey")?;
        let flaky = Flaky {
            name: format!("ubdflaky{number}"),
            sectors: mib << 11,
            disk: NullDisk::new(mib, 512, &[("cache_size", "8")])?,
        };
        sh(format!(
            "printf '{}' | dmsetup create {}; udevadm settle --timeout=60",
            flaky.table(&[], None),
            flaky.name
        ))?;
        Ok(flaky)
    }

    pub fn node(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    /// The parts `bad`, in sectors, do `fault` from now on; or nothing does.
    pub fn set(&self, bad: &[Range<u64>], fault: Option<Fault>) -> Result<()> {
        // Neither a file system's leave nor what is on its way is waited for, faults come as
        // they will; nor is udev, which may have been told to be quiet.
        sh(format!(
            "printf '{0}' | dmsetup load {1}; dmsetup --noudevsync resume --nolockfs --noflush {1}",
            self.table(bad, fault),
            self.name
        ))
        .context("failed to change the disk")?;
        Ok(())
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

impl Drop for Flaky {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = sh(format!("dmsetup remove --retry {}", self.name));
    }
}
