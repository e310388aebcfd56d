// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks whose writes are logged.

use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::log::{self, Entry};
use crate::support::{sh, NullDisk, RamDisk, Skip};

/// A disk under dm-log-writes.
struct Member {
    name: String,
    disk: NullDisk,
    log: RamDisk,
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may be gone already; what fails here is found among the leftovers.
        let _ = sh(format!("dmsetup remove --retry {}", self.name));
    }
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
        sh("modprobe dm-log-writes").map_err(|_| Skip("no dm-log-writes".into()))?;
        let members = (0..number).map(|number| {
            let disk = NullDisk::new(mib, 512, &[])?;
            let log = RamDisk::new()?;
            fill(number, &disk.node())?;
            let member = Member {
                name: format!("ubdlogged{number}"),
                disk,
                log,
            };
            sh(format!(
                "dmsetup create {} --table '0 {} log-writes {} {}'; udevadm settle --timeout=60",
                member.name,
                mib << 11,
                member.disk.node(),
                member.log.node()
            ))?;
            Ok(member)
        });
        Ok(Logged(members.collect::<Result<_>>()?))
    }

    pub fn nodes(&self) -> Vec<String> {
        let node = |member: &Member| format!("/dev/mapper/{}", member.name);
        self.0.iter().map(node).collect()
    }

    /// Puts a mark behind what is durable by now.
    pub fn mark(&self, text: &str) -> Result<()> {
        for member in &self.0 {
            let status = Command::new("dmsetup")
                .args(["message", &member.name, "0", "mark", text])
                .status()
                .context("failed to run dmsetup")?;
            ensure!(status.success(), "dmsetup has not set the mark `{text}`");
        }
        Ok(())
    }

    /// Takes the disks away; gives what was logged of each.
    pub fn end(self) -> Result<Vec<Vec<Entry>>> {
        let read = |member: Member| {
            // Ends the log.
            sh(format!("dmsetup remove --retry {}", member.name))?;
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
