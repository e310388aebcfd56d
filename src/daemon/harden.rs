// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping the daemon from waiting for its own device.
//!
//! A daemon that has to wait for memory while the kernel writes back pages to
//! free some may be waiting for a request that it has itself to serve. All
//! here is done as well as the caller's rights allow: what fails is logged.

use crate::error::{Error, Kind};
use crate::size;
use nix::mount::{mount, umount2, MntFlags, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::mman::{mlockall, MlockAllFlags};

/// `PR_SET_IO_FLUSHER`, which the libc crate lacks.
const PR_SET_IO_FLUSHER: i32 = 57;

/// Not in the libc crate either: locks pages when they are first used, not all at once.
const MCL_ONFAULT: i32 = 4;

/// Makes allocations of this process, and of threads that it starts from now
/// on, independent of I/O, and keeps its memory from being swapped. Not for
/// devices of users: the driver ends a server of theirs that takes too long.
pub(super) fn process() {
    // SAFETY: takes no pointers.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        warn(
            "mark the process as one that serves I/O",
            std::io::Error::last_os_error(),
        );
    }
    // The buffers of all tags are far larger than what is usually in use, so
    // only what was touched is locked.
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(MCL_ONFAULT);
    if let Err(errno) = mlockall(flags) {
        warn("lock the memory of the process", errno.into());
    }
}

/// Leaves the mount namespace for one without any mounts.
///
/// A process that is the last to hold a mount of its own device would write it
/// back while it exits, when nobody serves the device any more. Without mounts
/// that cannot be, and none of other people's mounts is kept busy either. Open
/// files stay usable; files are opened by path only before this.
pub(super) fn mounts() {
    let left = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| {
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        })
        .and_then(|()| umount2("/", MntFlags::MNT_DETACH));
    if let Err(errno) = left {
        warn("leave the mount namespace", errno.into());
    }
}

/// Says what to do when memory ran out because it is locked: every mapping and
/// every thread's stack then counts against a limit that is small by default.
pub(super) fn explain(err: Error) -> Error {
    match lockable() {
        Some(limit) if err.errno() == Some(libc::EAGAIN) => Error::new(
            Kind::Permission,
            format!(
                "{err:#}; a daemon locks its memory, of which this user may lock {}: run it as \
                 root, raise the limit (`ulimit -l unlimited`, or LimitMEMLOCK= of a systemd \
                 unit), or ask for fewer or smaller requests (-q, -d, --max-io-size)",
                size::human(limit)
            ),
        ),
        _ => err,
    }
}

/// Bytes that the process may lock, if they are limited: not for root.
fn lockable() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    // SAFETY: writes one structure, which is ours.
    let res = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    let limited = !root && res == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    limited.then_some(limit.rlim_cur)
}

fn warn(what: &str, err: std::io::Error) {
    log::warn!("failed to {what}: {err}; the device may hang when memory runs out");
}
