// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/run/ubd/N.json`: what only the daemon of device N knows, for `ubd list` and for the daemon
//! that follows it.
//!
//! Whoever can write a record decides which files the next daemon opens as root. So a record is
//! taken from its owner only, and nothing in it is believed before it was checked.

mod file;
mod lock;

pub(super) use file::RecordDir;
pub use file::{forget, load, rewrite};
pub use lock::Lock;

use crate::error::{Error, Kind, Result};
use crate::fastpath::Setting;
use crate::target::Spec;
use crate::uapi::ublk;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;

const DIR: &str = "/run/ubd";

/// Another one is of another ubd.
const VERSION: u32 = 1;

/// The name of the sum in a record's text.
const SUM: &str = "checksum";

/// FNV-1a of a text of `value` that is the same for the same value.
fn sum(value: &Value) -> String {
    let sum = value
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{sum:016x}")
}

/// What is recorded of a running device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of the format.
    pub version: u32,
    /// The device.
    pub id: u32,
    /// Of the device itself, which the driver keeps too: another device of the same number has
    /// another.
    pub token: u64,
    /// The daemon, or the one that died.
    pub daemon: Process,
    pub queues: u16,
    pub depth: u16,
    /// `F_*` of [`crate::uapi::ublk`], as the driver gave them.
    pub flags: u64,
    /// The kind of target, for people.
    pub target: String,
    /// The files and devices behind it, for people.
    pub members: Vec<String>,
    /// To make the target again; not every target can be.
    pub spec: Option<Spec>,
    pub fast_path: Option<FastPathRecord>,
    /// The daemon lets the driver do what it can.
    pub forward: bool,
}

/// What is bound to the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastPathRecord {
    pub program: String,
    pub cookie: u64,
    /// As `VAR=VALUE`; if there are any, the program is the device's own.
    pub settings: Vec<String>,
    /// Mapped I/O stops while there is no daemon.
    pub stops_with_daemon: bool,
}

/// A process, as nobody else can be it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: i32,
    /// When it started, in ticks since the boot: pids are used again.
    pub start: u64,
}

impl Process {
    /// This one. Without /proc, nobody knows when it started.
    pub fn me() -> Self {
        let pid = std::process::id() as i32;
        Process {
            pid,
            start: start_of(pid).unwrap_or(0),
        }
    }

    /// Whether it is still there.
    pub fn lives(&self) -> bool {
        start_of(self.pid) == Some(self.start)
    }
}

/// When a process started, unless it has ended.
fn start_of(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in brackets, may hold anything; behind it come the state and 18 fields before the start.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    match fields.next()? {
        // It has ended; only its parent has not heard yet.
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

impl Record {
    pub(super) fn new(info: &ublk::DevInfo, daemon: Process) -> Self {
        Record {
            version: VERSION,
            id: info.dev_id,
            token: info.ublksrv_flags,
            daemon,
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            flags: info.flags,
            target: String::new(),
            members: Vec::new(),
            spec: None,
            fast_path: None,
            forward: false,
        }
    }

    /// Whether it is about this device, and not an earlier one of the same number.
    pub fn is_of(&self, info: &ublk::DevInfo) -> bool {
        self.id == info.dev_id && self.token == info.ublksrv_flags
    }

    /// The text that [`Record::parse`] reads, with a sum of it: what was changed by anybody else is
    /// not believed, even if it makes sense.
    ///
    /// # Errors
    /// It has a path that JSON cannot hold.
    pub fn text(&self) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(self)?;
        value[SUM] = sum(&value).into();
        Ok(value.to_string())
    }

    /// Reads the text of a record.
    ///
    /// # Errors
    /// [`Kind::Usage`] with the reason: it is no record, or makes no sense.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let garbage = |err| Error::caused_by(Kind::Usage, "it is not a record", err);
        let refused = |why: String| Err(Error::new(Kind::Usage, why));
        let mut value: Value = serde_json::from_slice(text).map_err(garbage)?;
        // The version first: a record of another one may look like anything.
        match value.get("version").and_then(Value::as_u64) {
            None => return refused("it is not a record".to_owned()),
            Some(version) if version != u64::from(VERSION) => {
                return refused(format!(
                    "it is of version {version}, and this ubd reads version {VERSION}"
                ))
            }
            _ => {}
        }
        let written = value.as_object_mut().and_then(|object| object.remove(SUM));
        if written != Some(sum(&value).into()) {
            return refused("it was damaged: its checksum is another".to_owned());
        }
        let record: Record = serde_json::from_value(value).map_err(garbage)?;
        match record.nonsense() {
            None => Ok(record),
            Some(why) => refused(format!("{why} makes no sense")),
        }
    }

    /// What in it cannot be. What it says of files is checked when they are opened.
    fn nonsense(&self) -> Option<&'static str> {
        if self.daemon.pid <= 0 {
            return Some("its pid");
        }
        if !(1..=ublk::MAX_NR_QUEUES).contains(&self.queues)
            || !(1..=ublk::MAX_QUEUE_DEPTH).contains(&self.depth)
        {
            return Some("its number of queues or tags");
        }
        let fast_path = self.fast_path.as_ref()?;
        let name = fast_path.program.parse::<crate::fastpath::Name>();
        let mut settings = fast_path.settings.iter();
        if name.is_err() || settings.any(|text| text.parse::<Setting>().is_err()) {
            return Some("its program");
        }
        None
    }
}

/// A number for [`crate::control::AddRequest::token`] that no other device has.
pub fn token() -> u64 {
    let mut bytes = [0; 8];
    // SAFETY: writes at most so many bytes of an array of ours.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    let random = u64::from_ne_bytes(bytes);
    match got {
        8 => random,
        // The time of the start of this process is nearly as good.
        _ => Process::me().start << 32 | u64::from(std::process::id()),
    }
}

/// The record of a device that is there, if it has one.
pub fn read(info: &ublk::DevInfo) -> Option<Record> {
    load(info.dev_id).ok().filter(|record| record.is_of(info))
}

#[cfg(test)]
mod tests;
