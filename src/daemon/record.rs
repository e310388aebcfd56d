// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/run/ubd/N.json`: what only the daemon of device N knows, for `ubd list`.

use crate::error::{Context, Error, Kind, Result};
use nix::fcntl::{open, openat, renameat, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{unlinkat, UnlinkatFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;

const DIR: &str = "/run/ubd";

/// What is recorded of a running device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The daemon's; a record of another process is a left-over.
    pub pid: i32,
    /// The kind of target.
    pub target: String,
    /// The files and devices behind it.
    pub members: Vec<String>,
}

/// The record of device `id`, if its daemon is or was `pid`; any that is there for `None`.
pub fn read(id: u32, pid: Option<i32>) -> Option<Record> {
    let text = fs::read_to_string(format!("{DIR}/{id}.json")).ok()?;
    serde_json::from_str(&text)
        .ok()
        .filter(|record: &Record| pid.is_none_or(|pid| record.pid == pid))
}

/// Removes the record of device `id` that a killed daemon left.
pub fn forget(id: u32) {
    // There may be none, and one that stays is harmless: its pid is wrong.
    let _ = fs::remove_file(format!("{DIR}/{id}.json"));
}

/// The open directory of the records, for a process that cannot see it.
#[derive(Debug)]
pub(super) struct RecordDir(OwnedFd);

impl RecordDir {
    pub(super) fn open() -> Result<Self> {
        fs::create_dir_all(DIR).context(|| format!("failed to create `{DIR}`"))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(DIR, flags, Mode::empty()).context(|| format!("failed to open `{DIR}`"))?;
        Ok(RecordDir(dir))
    }

    /// Writes the record of device `id`; readers see all of it or none.
    pub(super) fn write(&self, id: u32, record: &Record) -> Result<()> {
        let (name, draft) = (format!("{id}.json"), format!(".{id}.json"));
        let what = || format!("failed to write `{DIR}/{name}`");
        let text =
            serde_json::to_string(record).map_err(|err| Error::caused_by(Kind::Io, what(), err))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        let file = openat(&self.0, draft.as_str(), flags, mode).context(what)?;
        File::from(file).write_all(text.as_bytes()).context(what)?;
        renameat(&self.0, draft.as_str(), &self.0, name.as_str()).context(what)
    }

    /// Removes the record of device `id`; there may be none.
    pub(super) fn remove(&self, id: u32) {
        // A record that stays is harmless: its pid tells that it is old.
        let _ = unlinkat(
            &self.0,
            format!("{id}.json").as_str(),
            UnlinkatFlags::NoRemoveDir,
        );
    }
}
