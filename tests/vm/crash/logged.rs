// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks whose writes are logged.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

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

    /// Puts a mark behind what is durable by now; one word.
    pub fn mark(&self, word: &str) -> Result<()> {
        for member in &self.0 {
            message(&member.name, &format!("mark {word}"))
                .with_context(|| format!("failed to mark the log of `{}`", member.name))?;
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

/// `dmsetup message NAME 0 TEXT`, without the time that a process takes to start.
fn message(name: &str, text: &str) -> Result<()> {
    /// `_IOWR(0xfd, 14, struct dm_ioctl)`.
    const DM_TARGET_MSG: libc::c_ulong = 0xc138_fd0e;
    /// `struct dm_ioctl`: version, data_size and data_start at the start, name at 48.
    const HEAD: usize = 312;
    let mut bytes = vec![0; HEAD + 8 + text.len() + 1];
    let len = bytes.len() as u32;
    for (at, number) in [(0, 4), (12, len), (16, HEAD as u32)] {
        bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes[48..48 + name.len()].copy_from_slice(name.as_bytes());
    // Behind the sector, which any will do for.
    bytes[HEAD + 8..HEAD + 8 + text.len()].copy_from_slice(text.as_bytes());
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")?;
    // SAFETY: the command reads and writes as many bytes as the head says there are.
    match unsafe { libc::ioctl(control.as_raw_fd(), DM_TARGET_MSG, bytes.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("the target has refused"),
    }
}
