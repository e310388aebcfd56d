// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that outlive their daemon, and change while they run.

use super::slots::no_device;
use super::{bare, block_node, on_device, wrap, Control};
use crate::error::{Error, Kind, Result};
use crate::uapi::{ubd, ublk};
use nix::errno::Errno;
use std::time::Duration;

impl Control {
    /// Makes device `id`, which has lost its daemon, ready for a new one: it opens the character
    /// node, fetches with every tag, and then calls [`Self::end_recovery`].
    ///
    /// # Errors
    /// [`Kind::Busy`] while the old daemon has the node; [`Kind::Usage`] when the device was not
    /// made to be recovered.
    pub fn start_recovery(&self, id: u32) -> Result<()> {
        self.run(ublk::U_CMD_START_USER_RECOVERY, &bare(id))
            .map_err(|err| match err.errno() {
                Some(libc::EBUSY) => Error::new(
                    Kind::Busy,
                    format!(
                        "failed to recover device {id}: it has not lost its daemon, or another \
                         one is taking over"
                    ),
                ),
                Some(libc::EINVAL | libc::EOPNOTSUPP) => Error::new(
                    Kind::Usage,
                    format!(
                        "failed to recover device {id}: it was not made to be recovered; \
                         `ubd add --recovery` makes one that is"
                    ),
                ),
                _ => on_device(err, "recover", id),
            })
    }

    /// Waits until the new daemon has fetched with every tag; the device lives again.
    pub fn end_recovery(&self, id: u32, daemon_pid: u32) -> Result<()> {
        let cmd = ublk::CtrlCmd {
            data: daemon_pid.into(),
            ..bare(id)
        };
        self.run(ublk::U_CMD_END_USER_RECOVERY, &cmd)
            .map_err(|err| on_device(err, "recover", id))
    }

    /// Lets the daemon of device `id` finish what it has, and takes its tags back; new requests
    /// wait. Without a timeout this waits for ever.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the daemon did not finish in time: it goes on as if nothing had been.
    pub fn quiesce(&self, id: u32, timeout: Option<Duration>) -> Result<()> {
        // 0 is for ever; less than a millisecond is not.
        let millis = timeout.map_or(0, |time| time.as_millis().max(1) as u64);
        let cmd = ublk::CtrlCmd {
            data: millis,
            ..bare(id)
        };
        self.run(ublk::U_CMD_QUIESCE_DEV, &cmd)
            .map_err(|err| match err.errno() {
                Some(libc::EBUSY) => Error::new(
                    Kind::Busy,
                    format!(
                        "failed to quiesce device {id}: its daemon did not finish its requests \
                         in time; it goes on"
                    ),
                ),
                Some(libc::EOPNOTSUPP) => Error::new(
                    Kind::Unsupported,
                    format!(
                        "failed to quiesce device {id}: it was not made to change its daemon \
                         (`ubd add --recovery`), or the driver cannot do that"
                    ),
                ),
                _ => on_device(err, "quiesce", id),
            })
    }

    /// Gives device `id` another size, in sectors of 512 bytes, while it runs.
    pub fn update_size(&self, id: u32, sectors: u64) -> Result<()> {
        let cmd = ublk::CtrlCmd {
            data: sectors,
            ..bare(id)
        };
        self.run(ublk::U_CMD_UPDATE_SIZE, &cmd)
            .map_err(|err| match err.errno() {
                Some(libc::EOPNOTSUPP) => Error::new(
                    Kind::Unsupported,
                    format!("failed to resize device {id}: the driver cannot do that"),
                ),
                _ => on_device(err, "resize", id),
            })
    }

    /// Stops device `id` if nobody has it open.
    ///
    /// # Errors
    /// [`Kind::Busy`] if somebody has.
    pub fn try_stop(&self, id: u32) -> Result<()> {
        self.run(ublk::U_CMD_TRY_STOP_DEV, &bare(id))
            .map_err(|err| match err.errno() {
                Some(libc::EBUSY) => Error::new(
                    Kind::Busy,
                    format!("failed to stop device {id}: `{}` is open", block_node(id)),
                ),
                _ => on_device(err, "stop", id),
            })
    }

    /// Decides what happens to device `id` while no daemon is there: `POLICY_*`.
    pub fn set_policy(&self, id: u32, flags: u32) -> Result<()> {
        let mut policy = ubd::Policy { dev_id: id, flags };
        self.ioctl(ubd::CMD_SET_POLICY, &mut policy)
            .map_err(|errno| match errno {
                Errno::ENODEV => no_device(id),
                Errno::ENOTTY => Error::new(
                    Kind::Unsupported,
                    "the loaded ubd driver has no policies for the death of a daemon; update it",
                ),
                _ => Error::os(format!("failed to set the policy of device {id}"), errno),
            })
    }

    /// Changes the length of a slot's window, in sectors of 512 bytes; 0 reaches to the end of the
    /// backing. Gives the new length.
    pub fn resize_slot(&self, id: u32, slot: u32, sectors: u64) -> Result<u64> {
        let mut resize = ubd::SlotResize {
            dev_id: id,
            slot,
            nr_sectors: sectors,
        };
        self.ioctl(ubd::CMD_RESIZE_SLOT, &mut resize)
            .map_err(|errno| {
                let what = format!("failed to resize slot {slot} of device {id}");
                match errno {
                    Errno::ENODEV => no_device(id),
                    Errno::ENOENT => {
                        Error::new(Kind::NotFound, format!("{what}: there is no such slot"))
                    }
                    Errno::EINVAL => Error::new(
                        Kind::Usage,
                        format!(
                            "{what}: the window must lie inside the backing, on block boundaries"
                        ),
                    ),
                    Errno::ENOTTY => Error::new(
                        Kind::Unsupported,
                        "the loaded ubd driver cannot resize slots; update it",
                    ),
                    _ => wrap(Error::os("", errno), what),
                }
            })?;
        Ok(resize.nr_sectors)
    }
}
