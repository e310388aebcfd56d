// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks whose writes are logged.

use anyhow::{ensure, Context, Result};

use super::log::{self, Entry};
use crate::support::{Dm, NullDisk, RamDisk};

/// A disk under dm-log-writes.
struct Member {
    dm: Dm,
    _disk: NullDisk,
    log: RamDisk,
}

/// Disks for the slots of a device, marked together.
pub struct Logged(Vec<Member>);

impl Logged {
    /// As many disks of `mib` MiB, all zeroes; `fill` gets the node of each before its log begins.
    pub fn new(
        number: usize,
        mib: u64,
        fill: impl Fn(usize, &str) -> Result<()>,
    ) -> Result<Logged> {
        let members = (0..number).map(|number| {
            let disk = NullDisk::new(mib, 512, &[])?;
            let log = RamDisk::new()?;
            fill(number, &disk.node())?;
            let name = format!("ubdlogged{number}");
            let (sectors, node, log_node) = (mib << 11, disk.node(), log.node());
            let table = format!("0 {sectors} log-writes {node} {log_node}");
            Ok(Member {
                dm: Dm::new(&name, "dm-log-writes", &table)?,
                _disk: disk,
                log,
            })
        });
        Ok(Logged(members.collect::<Result<_>>()?))
    }

    pub fn nodes(&self) -> Vec<String> {
        self.0.iter().map(|member| member.dm.node()).collect()
    }

    /// Puts a mark behind what is durable by now; one word.
    pub fn mark(&self, word: &str) -> Result<()> {
        for member in &self.0 {
            member.dm.message(&format!("mark {word}"))?;
        }
        Ok(())
    }

    /// Takes the disks away; gives what was logged of each.
    pub fn end(self) -> Result<Vec<Vec<Entry>>> {
        let read = |member: Member| {
            // Ends the log.
            member.dm.end()?;
            let entries = log::read(&member.log.node())?;
            let end = entries.last().context("an empty log")?;
            ensure!(
                matches!(&end.what, log::What::Mark(text) if text == "dm-log-writes-end"),
                "the log has no end: was it full?"
            );
            Ok(entries)
        };
        self.0.into_iter().map(read).collect()
    }
}
