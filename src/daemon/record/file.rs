// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files of the records.

use super::{Record, DIR};
use crate::error::{Context, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{open, openat, renameat, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, unlinkat, UnlinkatFlags};
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// More than the longest names of all files that a device can have.
const MAX_BYTES: u64 = 2 << 20;

/// The record of device `id`.
///
/// # Errors
/// [`Kind::NotFound`] if there is none, [`Kind::Usage`] and why if it cannot be used.
pub fn load(id: u32) -> Result<Record> {
    load_from(Path::new(DIR), id)
}

pub(super) fn load_from(dir: &Path, id: u32) -> Result<Record> {
    let path = dir.join(format!("{id}.json"));
    let in_it = |err: Error| {
        Error::caused_by(
            err.kind(),
            format!(
                "failed to use `{}`, the record of device {id}",
                path.display()
            ),
            err,
        )
    };
    let record = read_checked(dir, &path)
        .and_then(|text| Record::parse(&text))
        .map_err(in_it)?;
    if record.id != id {
        let text = format!("it is of device {}", record.id);
        return Err(in_it(Error::new(Kind::Usage, text)));
    }
    Ok(record)
}

/// The bytes of a file that nobody but its owner, who is root or us, can have written.
fn read_checked(dir: &Path, path: &Path) -> Result<Vec<u8>> {
    let meta = fs::symlink_metadata(dir).context(|| "failed to look at its directory")?;
    if !meta.is_dir() {
        return refused("its directory is not a directory".to_owned());
    }
    check_owner(&meta, "its directory")?;
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Err(Error::new(Kind::NotFound, "there is none")),
        Err(Errno::ELOOP) => return refused("it is a symbolic link".to_owned()),
        file => File::from(file.context(|| "failed to open it")?),
    };
    let meta = file.metadata().context(|| "failed to look at it")?;
    if !meta.is_file() {
        return refused("it is not a regular file".to_owned());
    }
    check_owner(&meta, "it")?;
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .context(|| "failed to read it")?;
    if text.len() as u64 > MAX_BYTES {
        return refused(format!("it is longer than {MAX_BYTES} bytes"));
    }
    Ok(text)
}

fn check_owner(meta: &Metadata, what: &str) -> Result<()> {
    let (owner, me) = (meta.uid(), geteuid().as_raw());
    if owner != 0 && owner != me {
        return refused(format!("{what} belongs to user {owner}"));
    }
    if meta.mode() & 0o022 != 0 {
        return refused(format!("{what} can be written by others than its owner"));
    }
    Ok(())
}

fn refused<T>(why: String) -> Result<T> {
    Err(Error::new(Kind::Usage, why))
}

/// Removes the record of device `id` that a killed daemon left.
pub fn forget(id: u32) {
    // There may be none, and one that stays is harmless: its token is another's.
    let _ = fs::remove_file(format!("{DIR}/{id}.json"));
}

/// Puts `record` in the place of the one that is there.
pub fn rewrite(record: &Record) -> Result<()> {
    RecordDir::open()?.write(record)
}

/// The open directory of the records, for a process that cannot see it.
#[derive(Debug)]
pub(in crate::daemon) struct RecordDir(OwnedFd);

impl RecordDir {
    pub(in crate::daemon) fn open() -> Result<Self> {
        RecordDir::at(Path::new(DIR))
    }

    pub(super) fn at(dir: &Path) -> Result<Self> {
        let mut make = DirBuilder::new();
        make.recursive(true)
            .mode(0o755)
            .create(dir)
            .context(|| format!("failed to create `{}`", dir.display()))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let dir = open(dir, flags, Mode::empty())
            .context(|| format!("failed to open `{}`", dir.display()))?;
        Ok(RecordDir(dir))
    }

    /// Writes the record of its device; readers see all of it or none, and after a crash as well.
    pub(in crate::daemon) fn write(&self, record: &Record) -> Result<()> {
        let (name, draft) = (
            format!("{}.json", record.id),
            format!(".{}.json", record.id),
        );
        let what = || format!("failed to write `{DIR}/{name}`");
        let text = record
            .text()
            .map_err(|err| Error::caused_by(Kind::Io, what(), err))?;
        // A draft that is there was left by somebody who died over it, or is a trap.
        let _ = unlinkat(&self.0, draft.as_str(), UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        let mut file = File::from(openat(&self.0, draft.as_str(), flags, mode).context(what)?);
        file.write_all(text.as_bytes()).context(what)?;
        // The directory is in memory as a rule, but need not be.
        file.sync_all().context(what)?;
        renameat(&self.0, draft.as_str(), &self.0, name.as_str()).context(what)?;
        self.sync();
        Ok(())
    }

    /// Removes the record of device `id`; there may be none.
    pub(in crate::daemon) fn remove(&self, id: u32) {
        // A record that stays is harmless: its token tells that it is old.
        let _ = unlinkat(
            &self.0,
            format!("{id}.json").as_str(),
            UnlinkatFlags::NoRemoveDir,
        );
    }

    fn sync(&self) {
        // Without it the old record might come back, which is stale and known to be.
        if let Err(errno) = nix::unistd::fsync(self.0.as_fd()) {
            log::debug!("failed to sync `{DIR}`: {errno}");
        }
    }
}
