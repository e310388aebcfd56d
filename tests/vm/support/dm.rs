// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disks of the device mapper.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use super::{needs, sh};

/// Waits for no word from udev, which might never come.
const DMSETUP: &str = "dmsetup --noudevsync";

/// One of them, removed when dropped: make it after what it lies on, or put it before that in a
/// struct.
pub struct Dm {
    name: String,
    /// The kernel's own, there at once.
    node: String,
}

impl Dm {
    /// `module` has its targets; `table` has a line, which `\n` ends, for each of its parts.
    pub fn new(name: &str, module: &str, table: &str) -> Result<Dm> {
        needs(module)?;
        let disk = sh(format!(
            "printf '{table}' | {DMSETUP} create {name}
             dmsetup info -c --noheadings -o blkdevname {name}
             settle"
        ))?;
        Ok(Dm {
            name: name.to_owned(),
            node: format!("/dev/{disk}"),
        })
    }

    /// `MIB` of `node` from its start.
    pub fn linear(name: &str, node: &str, mib: u64) -> Result<Dm> {
        Dm::new(name, "dm-mod", &format!("0 {} linear {node} 0", mib << 11))
    }

    pub fn node(&self) -> String {
        self.node.clone()
    }

    /// From now on it holds all I/O back, what is on its way below excepted.
    pub fn suspend(&self) -> Result<()> {
        let name = &self.name;
        sh(format!("{DMSETUP} suspend --noflush --nolockfs {name}")).map(drop)
    }

    pub fn resume(&self) -> Result<()> {
        sh(format!("{DMSETUP} resume {}", self.name)).map(drop)
    }

    /// Another table from now on. Neither a file system's leave nor I/O on its way is waited for.
    pub fn change(&self, table: &str) -> Result<()> {
        let name = &self.name;
        sh(format!(
            "printf '{table}' | {DMSETUP} load {name}
             {DMSETUP} resume --nolockfs --noflush {name}"
        ))
        .map(drop)
    }

    /// `dmsetup message NAME 0 TEXT`, without the time that a process takes to start.
    pub fn message(&self, text: &str) -> Result<()> {
        send(&self.name, text).with_context(|| format!("failed to tell `{}`: {text}", self.name))
    }

    /// Removes it; for those who look at what it lies on afterwards.
    pub fn end(self) -> Result<()> {
        let result = sh(self.removal()).map(drop);
        std::mem::forget(self);
        result
    }

    /// udev may have it open for a moment. It may be suspended; if it is not, that does nothing.
    fn removal(&self) -> String {
        let name = &self.name;
        format!("{DMSETUP} resume {name}; {DMSETUP} remove --retry {name}")
    }
}

impl Drop for Dm {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = sh(self.removal());
    }
}

fn send(name: &str, text: &str) -> io::Result<()> {
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
        _ => Err(io::Error::last_os_error()),
    }
}
