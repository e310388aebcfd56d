// SPDX-License-Identifier: MIT OR Apache-2.0
//! One command at a time that changes what is recorded of a device.

use super::DIR;
use crate::error::{Context, Error, Kind, Result};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

/// Held while a device changes its daemon or its size.
///
/// A lock of the byte of `/run/ubd/lock` that has the device's number. Those that are forked hold it,
/// too: a new daemon must have it to the end of its start, even if its starter is no more.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "its end is the end of the lock")] File);

impl Lock {
    /// Takes the lock of device `id`; does not wait.
    ///
    /// # Errors
    /// [`Kind::Busy`]: another command has it.
    pub fn take(id: u32) -> Result<Self> {
        let what = || format!("failed to lock `{DIR}/lock`");
        fs::create_dir_all(DIR).context(what)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            // Whoever can read it can lock it.
            .mode(0o600)
            .open(format!("{DIR}/lock"))
            .context(what)?;
        let lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: id.into(),
            l_len: 1,
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
            Err(Errno::EACCES | Errno::EAGAIN) => Err(Error::new(
                Kind::Busy,
                format!("another command is at work on device {id}; wait for it to end"),
            )),
            done => done.map(|_| Lock(file)).context(what),
        }
    }
}
