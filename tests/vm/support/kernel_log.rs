// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel log from a moment on.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// A line with one of these is a complaint.
const COMPLAINTS: &[&str] = &[
    "BUG",
    "WARNING",
    "Oops",
    "KASAN",
    "UBSAN",
    "KFENCE",
    "ODEBUG",
    "general protection",
    "unable to handle",
    "refcount_t",
    "list_add",
    "list_del",
    "circular locking",
    "recursive locking",
    "inconsistent lock",
    "suspicious RCU",
    "sleeping function",
    "scheduling while atomic",
    "bad unlock",
    "lock held",
    "held lock",
    "detected stall",
    "blocked for more than",
    "Call Trace",
    "page allocation failure",
    "Out of memory",
    "Objects remaining",
];

pub struct KernelLog(File);

impl KernelLog {
    pub fn from_now() -> Result<KernelLog> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("failed to open /dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(KernelLog(file))
    }

    /// What has been logged since it was last read.
    pub fn read(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                // "priority,number,time,flags;text\n key=value\n"
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]).into_owned();
                    let text = text.split_once(';').map_or("", |(_, text)| text);
                    lines.push(text.lines().next().unwrap_or_default().to_owned());
                }
                // Overwritten before it was read: go on with the oldest there is.
                Err(err) if err.raw_os_error() == Some(libc::EPIPE) => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(lines),
                Err(err) => return Err(err).context("failed to read /dev/kmsg"),
            }
        }
    }

    /// The complaints since it was last read, with what follows the first; empty when there are none.
    pub fn complaints(&mut self) -> Result<String> {
        let lines = self.read()?;
        let first = lines
            .iter()
            .position(|line| COMPLAINTS.iter().any(|word| line.contains(word)));
        Ok(first.map_or(String::new(), |at| {
            let (start, end) = (at.saturating_sub(2), (at + 60).min(lines.len()));
            lines[start..end].join("\n")
        }))
    }
}
