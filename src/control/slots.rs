// SPDX-License-Identifier: MIT OR Apache-2.0
//! Slots and programs: ubd's own commands.

use super::{block_node, Control};
use crate::error::{Error, Kind, Result};
use crate::uapi::{c_text, ubd, when, Plain};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A slot to register.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    pub file: BorrowedFd<'a>,
    /// May be written; the file must be open for writing.
    pub write: bool,
    /// A regular file whose page cache is bypassed.
    pub direct: bool,
    /// First sector (512 bytes) of the window.
    pub offset: u64,
    /// Sectors of the window; 0 reaches to the end.
    pub sectors: u64,
    /// The wanted number, or any.
    pub number: Option<u32>,
}

/// A program that is registered in the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    /// `OPS_*` of [`crate::uapi::ubd`].
    pub flags: u32,
    /// The driver took it out of service; `reason` says why.
    pub ejected: bool,
    /// Devices it is bound to.
    pub nr_bound: u32,
    /// Since it was registered or updated.
    pub bad_verdicts: u64,
    /// The last bad verdict, or empty.
    pub reason: String,
}

impl Control {
    /// What the driver can do.
    pub fn features(&self) -> Result<ubd::Features> {
        let mut features = ubd::Features::zeroed();
        self.ioctl(ubd::CMD_FEATURES, &mut features)
            .map_err(|err| Error::os("failed to ask the driver for its features", err))?;
        Ok(features)
    }

    /// Registers a slot of device `id`; gives its number and its sectors.
    pub fn register_slot(&self, id: u32, slot: &Slot<'_>) -> Result<(u32, u64)> {
        let mut reg = ubd::SlotReg {
            dev_id: id,
            fd: slot.file.as_raw_fd(),
            flags: when(slot.write, ubd::SLOT_WRITE) | when(slot.direct, ubd::SLOT_DIRECT),
            slot: slot.number.unwrap_or(ubd::SLOT_ANY),
            offset: slot.offset,
            nr_sectors: slot.sectors,
        };
        self.ioctl(ubd::CMD_REG_SLOT, &mut reg).map_err(|errno| {
            let why = match errno {
                Errno::EBADF => "the file is not open",
                Errno::EINVAL => {
                    "it must be a regular file or a block device without zones, and the window \
                     must lie inside it and on block boundaries"
                }
                Errno::EACCES => "the file is not open for what the slot is to do",
                Errno::EBUSY => {
                    "the slot number is taken, or the block device is in use (mounted, swap, \
                     part of another device); find out with `lsblk`"
                }
                Errno::ELOOP => "it is, or lies on, a ubd device",
                Errno::ENOSPC => "the device has no free slot",
                Errno::EOPNOTSUPP => "its limits do not fit the running device",
                Errno::EROFS => "it is read-only",
                Errno::EPERM => {
                    "it is append-only or immutable (see `lsattr`), or the device is not yours"
                }
                Errno::ENODEV => return no_device(id),
                _ => return Error::os(format!("failed to register a slot of device {id}"), errno),
            };
            let kind = Error::os("", errno).kind();
            Error::new(
                kind,
                format!("failed to register a slot of device {id}: {why}"),
            )
        })?;
        Ok((reg.slot, reg.nr_sectors))
    }

    /// Takes slot `slot` of device `id` out of service.
    pub fn unregister_slot(&self, id: u32, slot: u32) -> Result<()> {
        let mut unreg = ubd::SlotUnreg { dev_id: id, slot };
        self.ioctl(ubd::CMD_UNREG_SLOT, &mut unreg)
            .map_err(|errno| match errno {
                Errno::ENODEV => no_device(id),
                Errno::ENOENT => Error::new(
                    Kind::NotFound,
                    format!("failed to remove slot {slot}: device {id} has no such slot"),
                ),
                _ => Error::os(
                    format!("failed to remove slot {slot} of device {id}"),
                    errno,
                ),
            })
    }

    /// The slots of device `id`.
    pub fn slots(&self, id: u32) -> Result<Vec<ubd::SlotInfo>> {
        let mut slots = vec![ubd::SlotInfo::zeroed(); ubd::MAX_SLOTS as usize];
        loop {
            let mut list = ubd::SlotList {
                dev_id: id,
                nr: slots.len() as u32,
                addr: slots.as_mut_ptr() as u64,
            };
            self.ioctl(ubd::CMD_LIST_SLOTS, &mut list)
                .map_err(|errno| match errno {
                    Errno::ENODEV => no_device(id),
                    _ => Error::os(format!("failed to list the slots of device {id}"), errno),
                })?;
            if fits(&mut slots, list.nr, ubd::SlotInfo::zeroed()) {
                return Ok(slots);
            }
        }
    }

    /// Binds the registered program `name` to device `id`, instead of the one
    /// bound before.
    pub fn bind(&self, id: u32, name: &str, cookie: u64) -> Result<()> {
        let mut bind = ubd::Bind {
            dev_id: id,
            flags: 0,
            cookie,
            name: name_field(name)?,
        };
        self.ioctl(ubd::CMD_BIND, &mut bind)
            .map_err(|errno| match errno {
                Errno::ENODEV => no_device(id),
                Errno::ENOENT => Error::new(
                    Kind::NotFound,
                    format!(
                        "failed to bind `{name}`: no such program is loaded; load one with \
                     `ubd-bpf load`, or see `ubd-bpf list`"
                    ),
                ),
                Errno::ESHUTDOWN => self.ejected("bind", name),
                _ => Error::os(
                    format!("failed to bind `{name}` to `{}`", block_node(id)),
                    errno,
                ),
            })
    }

    /// Unbinds what is bound to device `id`.
    pub fn unbind(&self, id: u32) -> Result<()> {
        let mut unbind = ubd::Unbind {
            dev_id: id,
            reserved: 0,
        };
        self.ioctl(ubd::CMD_UNBIND, &mut unbind)
            .map_err(|errno| match errno {
                Errno::ENODEV => no_device(id),
                Errno::ENOENT => Error::new(
                    Kind::NotFound,
                    format!(
                        "failed to unbind: no program is bound to `{}`",
                        block_node(id)
                    ),
                ),
                _ => Error::os(
                    format!("failed to unbind the program of `{}`", block_node(id)),
                    errno,
                ),
            })
    }

    /// Waits until every bio of device `id` has ended that a program with
    /// [`ubd::OPS_TRACKED`] mapped by what its maps held before this call.
    ///
    /// # Errors
    /// The fence did not hold: what was to be moved must stay where it is.
    /// [`Kind::Unsupported`] from a driver without [`ubd::F_FENCE`], [`Kind::NotFound`].
    pub fn fence(&self, id: u32) -> Result<()> {
        let mut fence = ubd::Fence {
            dev_id: id,
            reserved: 0,
        };
        self.ioctl(ubd::CMD_FENCE, &mut fence)
            .map_err(|errno| match errno {
                Errno::ENODEV => no_device(id),
                Errno::ENOTTY => Error::new(
                    Kind::Unsupported,
                    "the loaded ubd driver has no fence, which maps that move data need; \
                     update it",
                ),
                _ => Error::os(
                    format!("failed to wait for the I/O of `{}`", block_node(id)),
                    errno,
                ),
            })
    }

    /// All registered programs.
    pub fn programs(&self) -> Result<Vec<Program>> {
        let mut infos = vec![ubd::ProgInfo::zeroed(); 16];
        loop {
            let mut list = ubd::ProgList {
                nr: infos.len() as u32,
                reserved: 0,
                addr: infos.as_mut_ptr() as u64,
            };
            self.ioctl(ubd::CMD_LIST_PROGS, &mut list)
                .map_err(|err| Error::os("failed to list the programs", err))?;
            if fits(&mut infos, list.nr, ubd::ProgInfo::zeroed()) {
                return Ok(infos.iter().map(Program::from).collect());
            }
        }
    }

    /// Runs a registered program on a made-up io; `run` is question and answer.
    pub fn test_run(&self, name: &str, run: &mut ubd::TestRun) -> Result<()> {
        run.name = name_field(name)?;
        self.ioctl(ubd::CMD_TEST_RUN, run)
            .map_err(|errno| match errno {
                Errno::ENOENT => Error::new(
                    Kind::NotFound,
                    format!(
                        "failed to test `{name}`: no such program is loaded; see `ubd-bpf list`"
                    ),
                ),
                Errno::ESHUTDOWN => self.ejected("test", name),
                _ => Error::os(format!("failed to test `{name}`"), errno),
            })
    }

    /// Why the driver has taken program `name` out of service.
    fn ejected(&self, verb: &str, name: &str) -> Error {
        let reason = self
            .programs()
            .ok()
            .and_then(|all| all.into_iter().find(|program| program.name == name))
            .map_or_else(|| "it is gone by now".to_owned(), |program| program.reason);
        Error::new(
            Kind::Busy,
            format!(
                "failed to {verb} `{name}`: it was ejected for bad verdicts, the last one: \
                 {reason}; mend it and load it again with --replace (`ubd-bpf show {name}` tells more)"
            ),
        )
    }

    pub(super) fn ioctl<T: Plain>(&self, cmd: u32, arg: &mut T) -> Result<(), Errno> {
        // SAFETY: `arg` is of the size that `cmd` encodes and any bytes that
        // the driver writes are a value of it; lists carry the address and the
        // length of a live, exclusively borrowed vector.
        let res =
            unsafe { libc::ioctl(self.node.as_raw_fd(), cmd.into(), std::ptr::from_mut(arg)) };
        Errno::result(res).map(drop)
    }
}

impl From<&ubd::ProgInfo> for Program {
    fn from(info: &ubd::ProgInfo) -> Self {
        Program {
            name: c_text(&info.name),
            flags: info.flags,
            ejected: info.state == ubd::PROG_EJECTED,
            nr_bound: info.nr_bound,
            bad_verdicts: info.bad_verdicts,
            reason: c_text(&info.reason),
        }
    }
}

/// Cuts the list to the `nr` entries that the driver has, or makes room for them.
fn fits<T: Clone>(list: &mut Vec<T>, nr: u32, empty: T) -> bool {
    let fits = nr as usize <= list.len();
    list.resize(nr as usize, empty);
    fits
}

pub(super) fn no_device(id: u32) -> Error {
    Error::new(Kind::NotFound, format!("there is no device {id}"))
}

/// A program's name as the driver takes it.
fn name_field(name: &str) -> Result<[u8; ubd::OPS_NAME_LEN]> {
    let mut field = [0; ubd::OPS_NAME_LEN];
    if name.is_empty() || name.len() >= field.len() || name.contains('\0') {
        return Err(Error::new(
            Kind::Usage,
            format!("`{name}` cannot name a program: a name has 1 to 15 bytes"),
        ));
    }
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_room_for_the_nul() {
        assert_eq!(&name_field("linear").unwrap()[..7], b"linear\0");
        assert!(name_field("123456789012345").is_ok());
        assert!(name_field("1234567890123456").is_err());
        assert!(name_field("").is_err());
    }

    #[test]
    fn a_list_that_is_too_short_grows() {
        let mut list = vec![0u8; 2];
        assert!(!fits(&mut list, 5, 0));
        assert_eq!(list.len(), 5);
        assert!(fits(&mut list, 3, 0));
        assert_eq!(list.len(), 3);
    }
}
