// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running one control command.

use crate::error::{Context, Error, Kind, Result};
use crate::uapi::{ublk, Plain};
use io_uring::{cqueue, opcode, squeue, types, IoUring};
use std::io;
use std::os::fd::RawFd;
use std::thread;

/// Runs one command to its end, however long that takes.
///
/// It runs on a thread of its own, with a ring of its own: commands that sleep
/// are handed to a kernel worker that belongs to the thread, and one that
/// stayed would wake up every few seconds for as long as the daemon lives.
pub(super) fn run(node: RawFd, op: u32, cmd: &ublk::CtrlCmd) -> Result<()> {
    let cmd = *cmd;
    let thread = thread::Builder::new()
        .name("ubd-control".to_owned())
        .spawn(move || run_here(node, op, &cmd))
        .context(|| "failed to start a thread for a control command")?;
    thread.join().unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Protocol,
            "a control command's thread panicked",
        ))
    })
}

fn run_here(node: RawFd, op: u32, cmd: &ublk::CtrlCmd) -> Result<()> {
    // SQEs of 128 bytes, for the command is larger than the 16 bytes that a
    // plain one has room for.
    let mut ring: IoUring<squeue::Entry128, cqueue::Entry> =
        IoUring::builder()
            .build(1)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EPERM) => Error::os(
                    "failed to create an io_uring; is kernel.io_uring_disabled set?",
                    err,
                ),
                _ => Error::os("failed to create an io_uring", err),
            })?;
    let mut area = [0u8; 80];
    area[..size_of::<ublk::CtrlCmd>()].copy_from_slice(cmd.as_bytes());
    let sqe = opcode::UringCmd80::new(types::Fd(node), op)
        .cmd(area)
        .build();
    // SAFETY: the command is copied into the SQE, and the callers of `run` keep
    // what it points to alive until it returns, which is after the command has
    // ended.
    unsafe { ring.submission().push(&sqe) }
        .map_err(|err| Error::caused_by(Kind::Io, "failed to queue a control command", err))?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(err) if err.raw_os_error() == Some(libc::EINTR) => {}
            Err(err) => return Err(err).context(|| "failed to submit a control command"),
        }
        if let Some(cqe) = ring.completion().next() {
            return match cqe.result() {
                res if res < 0 => Err(io::Error::from_raw_os_error(-res))
                    .context(|| "the driver refused a control command"),
                _ => Ok(()),
            };
        }
    }
}
