// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/dev/ubd-control`: devices over an io_uring, slots and programs by ioctl.

mod path;
mod recovery;
mod ring;
mod slots;

pub use slots::{Program, Slot};

use crate::error::{Context, Error, Kind, Result};
use crate::uapi::{ublk, Plain};

use nix::sched::CpuSet;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

/// Where the driver's control node is.
pub const CONTROL_NODE: &str = "/dev/ubd-control";

/// The character node of device `id`, for its daemon.
pub fn char_node(id: u32) -> String {
    format!("/dev/ubdc{id}")
}

/// The block node of device `id`, for its users.
pub fn block_node(id: u32) -> String {
    format!("/dev/ubdb{id}")
}

/// What to ask of ADD.
#[derive(Debug, Clone, Copy, Default)]
pub struct AddRequest {
    /// The number of the device, or the driver's choice.
    pub id: Option<u32>,
    pub queues: u16,
    /// Tags of each queue.
    pub depth: u16,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
    /// `F_*` of [`crate::uapi::ublk`], beside those that are always there. The driver clears
    /// what it does not have, and tells in [`ublk::DevInfo::flags`].
    pub flags: u64,
    /// Bytes from one descriptor to the next; needs [`ublk::F_IO_DESC_SIZE`], else 0.
    pub desc_bytes: u16,
    /// Kept in [`ublk::DevInfo::ublksrv_flags`]; the driver does not look at it.
    pub token: u64,
}

/// An open control node.
#[derive(Debug)]
pub struct Control {
    node: File,
}

impl Control {
    /// Opens the control node.
    ///
    /// # Errors
    /// [`Kind::DriverMissing`] when the driver is not there,
    /// [`Kind::Permission`] when the caller may not open the node.
    pub fn open() -> Result<Self> {
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open(CONTROL_NODE)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::new(
                    Kind::DriverMissing,
                    format!(
                        "the ubd driver is not loaded: `{CONTROL_NODE}` does not exist; \
                         load it with `modprobe ubd_drv`"
                    ),
                ),
                Some(libc::EACCES | libc::EPERM) => Error::os(
                    format!("failed to open `{CONTROL_NODE}`, which takes root"),
                    err,
                ),
                _ => Error::os(format!("failed to open `{CONTROL_NODE}`"), err),
            })?;
        Ok(Control { node })
    }

    /// Makes a device; it gets its character node but no disk yet.
    pub fn add(&self, want: &AddRequest) -> Result<ublk::DevInfo> {
        let mut info = ublk::DevInfo {
            nr_hw_queues: want.queues,
            queue_depth: want.depth,
            max_io_buf_bytes: want.max_io_bytes,
            dev_id: want.id.unwrap_or(u32::MAX),
            io_desc_size: want.desc_bytes,
            flags: ublk::F_URING_CMD_COMP_IN_TASK | ublk::F_CMD_IOCTL_ENCODE | want.flags,
            ublksrv_flags: want.token,
            ..ublk::DevInfo::zeroed()
        };
        let cmd = for_device(info.dev_id, &mut info);
        ring::run(self.node.as_raw_fd(), ublk::U_CMD_ADD_DEV, &cmd).map_err(|err| {
            match (err.errno(), want.id) {
                (Some(libc::EEXIST), Some(id)) => Error::new(
                    Kind::Exists,
                    format!(
                        "failed to add device {id}: `{}` exists already",
                        block_node(id)
                    ),
                ),
                (Some(libc::EINVAL), Some(id)) => Error::new(
                    Kind::Usage,
                    format!("failed to add device {id}: the driver has no such number"),
                ),
                _ => wrap(err, "failed to add a device"),
            }
        })?;
        Ok(info)
    }

    /// Starts device `id`, whose queues must all have fetched; its disk appears.
    pub fn start(&self, id: u32, daemon_pid: u32) -> Result<()> {
        let cmd = ublk::CtrlCmd {
            data: daemon_pid.into(),
            ..bare(id)
        };
        self.run(ublk::U_CMD_START_DEV, &cmd)
            .map_err(|err| match err.errno() {
                Some(libc::EBUSY) => Error::new(
                    Kind::Busy,
                    format!(
                        "failed to start device {id}: the daemon that served it before, or users \
                         of its old disk, are still there; wait for them to go, or delete it"
                    ),
                ),
                _ => on_device(err, "start", id),
            })
    }

    /// Stops device `id`: its disk goes, requests in flight fail.
    pub fn stop(&self, id: u32) -> Result<()> {
        self.run(ublk::U_CMD_STOP_DEV, &bare(id))
            .map_err(|err| on_device(err, "stop", id))
    }

    /// Deletes device `id` and waits until its number is free again, that is,
    /// until its daemon has closed the character node.
    pub fn del(&self, id: u32) -> Result<()> {
        self.run(ublk::U_CMD_DEL_DEV, &bare(id))
            .map_err(|err| on_device(err, "delete", id))
    }

    /// Deletes device `id` without waiting for its daemon.
    pub fn del_async(&self, id: u32) -> Result<()> {
        self.run(ublk::U_CMD_DEL_DEV_ASYNC, &bare(id))
            .map_err(|err| on_device(err, "delete", id))
    }

    /// Sets the parameters of device `id`, before it starts.
    pub fn set_params(&self, id: u32, params: &ublk::Params) -> Result<()> {
        let mut params = *params;
        let cmd = for_device(id, &mut params);
        self.run(ublk::U_CMD_SET_PARAMS, &cmd)
            .map_err(|err| on_device(err, "set up", id))
    }

    /// The parameters of device `id`.
    pub fn params(&self, id: u32) -> Result<ublk::Params> {
        let mut params = ublk::Params::unset();
        let cmd = for_device(id, &mut params);
        self.run(ublk::U_CMD_GET_PARAMS, &cmd)
            .map_err(|err| on_device(err, "inspect", id))?;
        Ok(params)
    }

    /// What the driver says of device `id`.
    pub fn dev_info(&self, id: u32) -> Result<ublk::DevInfo> {
        let mut info = ublk::DevInfo::zeroed();
        let cmd = for_device(id, &mut info);
        self.run(ublk::U_CMD_GET_DEV_INFO, &cmd)
            .map_err(|err| on_device(err, "inspect", id))?;
        Ok(info)
    }

    /// The features of ublk that the driver has: `F_*` of [`crate::uapi::ublk`].
    pub fn ublk_features(&self) -> Result<u64> {
        let mut features = [0u64];
        let cmd = for_device(u32::MAX, &mut features[..]);
        ring::run(self.node.as_raw_fd(), ublk::U_CMD_GET_FEATURES, &cmd)
            .map_err(|err| wrap(err, "failed to ask the driver for its features"))?;
        Ok(features[0])
    }

    /// The CPUs whose I/O comes to queue `queue` of device `id`.
    pub fn queue_affinity(&self, id: u32, queue: u16) -> Result<CpuSet> {
        let mut mask = [0u64; CpuSet::count() / 64];
        let cmd = ublk::CtrlCmd {
            data: queue.into(),
            ..for_device(id, &mut mask[..])
        };
        self.run(ublk::U_CMD_GET_QUEUE_AFFINITY, &cmd)
            .map_err(|err| on_device(err, "inspect", id))?;
        let mut cpus = CpuSet::new();
        for cpu in (0..CpuSet::count()).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1) {
            cpus.set(cpu)
                .context(|| format!("failed to note CPU {cpu}"))?;
        }
        Ok(cpus)
    }

    /// Runs one command for a device to its end. The errno of the answer is the error's source.
    fn run(&self, op: u32, cmd: &ublk::CtrlCmd) -> Result<()> {
        path::run(self.node.as_raw_fd(), op, cmd)
    }
}

/// A command for device `id` without an argument.
fn bare(id: u32) -> ublk::CtrlCmd {
    ublk::CtrlCmd {
        dev_id: id,
        queue_id: u16::MAX,
        ..ublk::CtrlCmd::zeroed()
    }
}

/// A command for device `id` that reads or writes `arg`, which must outlive it.
fn for_device<T: plain::Plain + ?Sized>(id: u32, arg: &mut T) -> ublk::CtrlCmd {
    ublk::CtrlCmd {
        len: size_of_val(arg) as u16,
        addr: std::ptr::from_mut(arg).cast::<u8>() as u64,
        ..bare(id)
    }
}

fn wrap(err: Error, what: impl Into<String>) -> Error {
    match err.errno() {
        Some(errno) => Error::os(what, std::io::Error::from_raw_os_error(errno)),
        None => err,
    }
}

fn on_device(err: Error, verb: &str, id: u32) -> Error {
    match err.errno() {
        Some(libc::ENODEV | libc::ENOENT) => Error::new(
            Kind::NotFound,
            format!("failed to {verb} device {id}: there is no such device"),
        ),
        _ => wrap(err, format!("failed to {verb} device {id}")),
    }
}
