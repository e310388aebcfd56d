// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands for devices of people who are not root.
//!
//! What such a device's commands may do is decided by the permissions of its character node, whose
//! path therefore stands before the argument of every command.

use super::{char_node, for_device, ring};
use crate::error::{Kind, Result};
use crate::uapi::{ublk, Plain};
use std::os::fd::RawFd;

/// Room for the path of a node, a multiple of 8 so that what follows is aligned; the rest is NULs.
const PATH: usize = 32;
/// The longest argument of a command with a path.
const ARG: usize = 1024;

/// Runs a command for a device, with the path if the device wants one.
pub(super) fn run(node: RawFd, op: u32, cmd: &ublk::CtrlCmd) -> Result<()> {
    match ring::run(node, op, cmd) {
        Err(err) if err.errno() == Some(libc::EINVAL) => match is_unprivileged(node, cmd.dev_id) {
            Ok(true) => with_path(node, op, cmd),
            // It may be somebody else's: the command was good.
            Err(refused) if refused.kind() == Kind::Permission => Err(refused),
            _ => Err(err),
        },
        done => done,
    }
}

/// Asks by the one command that takes a path for every device.
fn is_unprivileged(node: RawFd, id: u32) -> Result<bool> {
    let mut info = ublk::DevInfo::zeroed();
    let cmd = for_device(id, &mut info);
    with_path(node, ublk::U_CMD_GET_DEV_INFO2, &cmd)?;
    Ok(info.flags & ublk::F_UNPRIVILEGED_DEV != 0)
}

/// Runs `cmd` with the path of its device's node before its argument.
fn with_path(node: RawFd, op: u32, cmd: &ublk::CtrlCmd) -> Result<()> {
    let path = char_node(cmd.dev_id);
    let len = usize::from(cmd.len).min(ARG);
    // Words, for alignment.
    let mut words = [0u64; (PATH + ARG) / 8];
    let base = words.as_mut_ptr().cast::<u8>();
    // SAFETY: a path is at most "/dev/ubdc4294967295", and `len` at most ARG, so both fit; the
    // callers' arguments are live and exclusively theirs, and apart from `words`.
    unsafe {
        base.copy_from_nonoverlapping(path.as_ptr(), path.len());
        if len > 0 {
            base.add(PATH)
                .copy_from_nonoverlapping(cmd.addr as *const u8, len);
        }
    }
    let carrying = ublk::CtrlCmd {
        addr: base as u64,
        len: (PATH + len) as u16,
        dev_path_len: PATH as u16,
        ..*cmd
    };
    ring::run(node, op, &carrying)?;
    if len > 0 {
        // SAFETY: as above; what the driver has written goes back to the argument.
        unsafe { (cmd.addr as *mut u8).copy_from_nonoverlapping(base.add(PATH), len) };
    }
    Ok(())
}
