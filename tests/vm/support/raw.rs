// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's io_uring commands without the manners of the library: any number, any length, any
//! flags.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use io_uring::{cqueue, opcode, squeue, types, IoUring};
use ubd_bpf::uapi::{ublk, Plain};

/// A ring for commands on `/dev/ubd-control`.
pub struct RawControl {
    node: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl RawControl {
    pub fn open() -> Result<RawControl> {
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/ubd-control");
        let ring = IoUring::builder()
            .build(4)
            .context("failed to make a ring")?;
        Ok(RawControl {
            node: node.context("failed to open /dev/ubd-control")?,
            ring,
        })
    }

    /// Runs the command `op`; gives the result as it comes: 0 or more, or -errno.
    ///
    /// What `cmd.addr` points to must live until then.
    pub fn run(&mut self, op: u32, cmd: &ublk::CtrlCmd, flags: squeue::Flags) -> Result<i32> {
        let mut area = [0u8; 80];
        let bytes = cmd.as_bytes();
        area[..bytes.len()].copy_from_slice(bytes);
        let sqe = opcode::UringCmd80::new(types::Fd(self.node.as_raw_fd()), op)
            .cmd(area)
            .build()
            .flags(flags);
        // SAFETY: the argument is in the SQE; the caller keeps what it points to.
        unsafe { self.ring.submission().push(&sqe) }.context("the ring is full")?;
        self.ring.submit_and_wait(1).context("failed to submit")?;
        Ok(self
            .ring
            .completion()
            .next()
            .context("no completion")?
            .result())
    }

    /// An ioctl of ubd's own on the node; 0 or -errno.
    pub fn ioctl(&self, cmd: u32, arg: u64) -> i32 {
        // SAFETY: whatever the number and the argument, the kernel must cope; that is the test.
        match unsafe { libc::ioctl(self.node.as_raw_fd(), cmd.into(), arg) } {
            -1 => -std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            ret => ret,
        }
    }
}

/// A command for device `id` with nothing else in it.
pub fn ctrl_cmd(id: u32) -> ublk::CtrlCmd {
    ublk::CtrlCmd {
        dev_id: id,
        queue_id: u16::MAX,
        ..ublk::CtrlCmd::zeroed()
    }
}
