// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands on `/dev/ubd-control`, ublk's and ubd's, with anything for an argument.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::time::Duration;

use fastrand::Rng;
use io_uring::squeue::Flags;
use ubd_bpf::control::Control;
use ubd_bpf::uapi::{ubd, ublk, Plain};

use super::arena::Arena;
use super::role::{violation, Orders};
use super::{beside, some_flags, IDS, PROGRAM};
use crate::control::server::{params, IO_BYTES, SECTORS};
use crate::support::raw::{ctrl_cmd, RawControl};

const COMMANDS: [u32; 16] = [
    ublk::U_CMD_GET_QUEUE_AFFINITY,
    ublk::U_CMD_GET_DEV_INFO,
    ublk::U_CMD_ADD_DEV,
    ublk::U_CMD_DEL_DEV,
    ublk::U_CMD_START_DEV,
    ublk::U_CMD_STOP_DEV,
    ublk::U_CMD_SET_PARAMS,
    ublk::U_CMD_GET_PARAMS,
    ublk::U_CMD_START_USER_RECOVERY,
    ublk::U_CMD_END_USER_RECOVERY,
    ublk::U_CMD_GET_DEV_INFO2,
    ublk::U_CMD_GET_FEATURES,
    ublk::U_CMD_DEL_DEV_ASYNC,
    ublk::U_CMD_UPDATE_SIZE,
    ublk::U_CMD_QUIESCE_DEV,
    ublk::U_CMD_TRY_STOP_DEV,
];

const IOCTLS: [u32; 11] = [
    ubd::CMD_FEATURES,
    ubd::CMD_REG_SLOT,
    ubd::CMD_UNREG_SLOT,
    ubd::CMD_LIST_SLOTS,
    ubd::CMD_BIND,
    ubd::CMD_UNBIND,
    ubd::CMD_LIST_PROGS,
    ubd::CMD_TEST_RUN,
    ubd::CMD_FENCE,
    ubd::CMD_SET_POLICY,
    ubd::CMD_RESIZE_SLOT,
];

/// Somebody with a ring, memory of all kinds, and files to offer.
struct Somebody {
    raw: RawControl,
    arena: Arena,
    rng: Rng,
    files: Vec<File>,
}

impl Somebody {
    fn new(rng: Rng, disk: &str) -> Somebody {
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        let names = ["/dev/null", "/dev/ubd-control", "/tmp", "/proc/self/mem"];
        let mut files: Vec<File> = names.iter().filter_map(|name| open(name).ok()).collect();
        // Those that can be slots, more often.
        for _ in 0..4 {
            files.extend(open(disk));
        }
        files.extend(File::open(disk));
        let file = tempfile::tempfile().and_then(|file| file.set_len(SECTORS << 9).map(|()| file));
        files.extend(file);
        Somebody {
            raw: RawControl::open().expect("the control node"),
            arena: Arena::new(),
            rng,
            files,
        }
    }

    /// One of ublk's commands; mostly one that makes sense but for a field.
    fn command(&mut self, op: u32, id: u32) -> i32 {
        let rng = &mut self.rng;
        let path = format!("/dev/ubdc{id}\0");
        let info = ublk::DevInfo {
            nr_hw_queues: rng.u16(..4),
            queue_depth: rng.u16(..40),
            max_io_buf_bytes: IO_BYTES as u32,
            dev_id: id,
            flags: some_flags(rng)
                | if rng.bool() {
                    ublk::F_UNPRIVILEGED_DEV
                } else {
                    0
                },
            io_desc_size: 24 + (rng.u16(..4) << 3),
            ..ublk::DevInfo::zeroed()
        };
        let mut shown = params();
        shown.basic.dev_sectors = [SECTORS, 0, rng.u64(..)][rng.usize(..3)];
        shown.basic.logical_bs_shift = 9 + rng.u8(..6);
        let mut argument = match op {
            ublk::U_CMD_ADD_DEV => info.as_bytes().to_vec(),
            ublk::U_CMD_SET_PARAMS | ublk::U_CMD_GET_PARAMS => shown.as_bytes().to_vec(),
            _ => vec![0; [8, 64, 128][rng.usize(..3)]],
        };
        // A path goes before it.
        let path_len = if rng.bool() { path.len() } else { 0 };
        argument.splice(..0, path.bytes().take(path_len));
        for _ in 0..rng.u32(..3) {
            let at = rng.usize(..argument.len());
            argument[at] = rng.u8(..);
        }
        let mut cmd = ublk::CtrlCmd {
            addr: self.arena.put(&argument, rng),
            len: argument.len() as u16,
            data: match op {
                ublk::U_CMD_START_DEV | ublk::U_CMD_END_USER_RECOVERY => std::process::id().into(),
                ublk::U_CMD_UPDATE_SIZE => rng.u64(..2 * SECTORS),
                _ => rng.u64(..3),
            },
            dev_path_len: path_len as u16,
            ..ctrl_cmd(id)
        };
        for _ in 0..rng.u32(..2) {
            match rng.u32(..7) {
                0 => cmd.addr = self.arena.any(rng),
                1 => cmd.len = rng.u16(..) >> rng.u32(..16),
                2 => cmd.dev_path_len = rng.u16(..) >> rng.u32(..16),
                3 => cmd.data = rng.u64(..) >> rng.u32(..64),
                4 => cmd.queue_id = rng.u16(..4),
                5 => cmd.pad = rng.u16(..),
                _ => cmd.reserved = rng.u32(..),
            }
        }
        let op = if rng.u32(..20) == 0 {
            op ^ 1 << rng.u32(8..32)
        } else {
            op
        };
        let flags = if rng.u32(..4) == 0 {
            Flags::ASYNC
        } else {
            Flags::empty()
        };
        self.raw.run(op, &cmd, flags).unwrap_or(-libc::EIO)
    }

    /// The bytes of an argument of one of ubd's own commands.
    fn argument(&mut self, cmd: u32, id: u32) -> Vec<u8> {
        let rng = &mut self.rng;
        let fd = match self.files.is_empty() || rng.u32(..4) == 0 {
            true => rng.i32(-2..20),
            false => self.files[rng.usize(..self.files.len())].as_raw_fd(),
        };
        let mut name = [0; ubd::OPS_NAME_LEN];
        name[..PROGRAM.len()].copy_from_slice(PROGRAM.as_bytes());
        match cmd {
            ubd::CMD_REG_SLOT => ubd::SlotReg {
                dev_id: id,
                fd,
                flags: [0, 1, 1, 3, rng.u32(..)][rng.usize(..5)],
                slot: [0, 1, ubd::SLOT_ANY, rng.u32(..70)][rng.usize(..4)],
                offset: [0, 0, rng.u64(..)][rng.usize(..3)],
                nr_sectors: [0, SECTORS, rng.u64(..)][rng.usize(..3)],
            }
            .as_bytes()
            .to_vec(),
            ubd::CMD_BIND => ubd::Bind {
                dev_id: id,
                flags: 0,
                cookie: rng.u64(..),
                name,
            }
            .as_bytes()
            .to_vec(),
            ubd::CMD_LIST_SLOTS | ubd::CMD_LIST_PROGS => ubd::SlotList {
                dev_id: if cmd == ubd::CMD_LIST_SLOTS {
                    id
                } else {
                    rng.u32(..100)
                },
                nr: rng.u32(..100),
                addr: self.arena.any(rng),
            }
            .as_bytes()
            .to_vec(),
            ubd::CMD_TEST_RUN => ubd::TestRun {
                name,
                io: ubd::BpfIo {
                    nr_sectors: rng.u32(..),
                    op: rng.u32(..6),
                    nr_slots: rng.u32(..70),
                    ..ubd::BpfIo::zeroed()
                },
                slot_sectors: rng.u64(..),
                block_size: [512, 4096, rng.u32(..)][rng.usize(..3)],
                ..ubd::TestRun::zeroed()
            }
            .as_bytes()
            .to_vec(),
            ubd::CMD_RESIZE_SLOT => ubd::SlotResize {
                dev_id: id,
                slot: rng.u32(..3),
                nr_sectors: rng.u64(..2 * SECTORS),
            }
            .as_bytes()
            .to_vec(),
            _ => [id, rng.u32(..2)].map(u32::to_ne_bytes).concat(),
        }
    }

    fn ioctl(&mut self, cmd: u32, id: u32) -> i32 {
        let mut argument = self.argument(cmd, id);
        let rng = &mut self.rng;
        for _ in 0..rng.u32(..2) {
            // Not the number of the device, which comes first.
            let at = rng.usize(4.min(argument.len() - 1)..argument.len());
            argument[at] = rng.u8(..);
        }
        let at = match rng.u32(..12) {
            0 => self.arena.any(rng),
            _ => self.arena.put(&argument, rng),
        };
        let cmd = if rng.u32(..20) == 0 {
            cmd ^ 1 << rng.u32(8..32)
        } else {
            cmd
        };
        // The other nodes know none of it.
        if rng.u32(..20) == 0 {
            let file = &self.files[rng.usize(..self.files.len())];
            // SAFETY: whatever the number and the argument, the kernel must cope.
            return unsafe { libc::ioctl(file.as_raw_fd(), cmd.into(), at) };
        }
        self.raw.ioctl(cmd, at)
    }
}

/// Everything, to devices that are there or not, as root.
pub fn root(orders: &Orders) {
    for number in 0..2 {
        let (rng, disk) = (
            Rng::with_seed(orders.seed.wrapping_add(number)),
            orders.disk.clone(),
        );
        std::thread::spawn(move || {
            let mut somebody = Somebody::new(rng, &disk);
            loop {
                let id = somebody.rng.u32(IDS);
                let op = COMMANDS[somebody.rng.usize(..COMMANDS.len())];
                match somebody.rng.u32(..3) {
                    0 => somebody.command(op, id),
                    1 => somebody.command(ublk::U_CMD_ADD_DEV, id),
                    _ => {
                        let cmd = IOCTLS[somebody.rng.usize(..IOCTLS.len())];
                        somebody.ioctl(cmd, id)
                    }
                };
            }
        });
    }
    loop {
        std::thread::park();
    }
}

/// Slots, programs, sizes and policies of one device, most of them good.
pub fn slots(orders: &Orders) {
    let mut somebody = Somebody::new(Rng::with_seed(orders.seed), &orders.disk);
    let control = Control::open().expect("the control node");
    loop {
        let often = [ubd::CMD_REG_SLOT, ubd::CMD_REG_SLOT, ubd::CMD_BIND];
        let cmd = match somebody.rng.bool() {
            true => often[somebody.rng.usize(..often.len())],
            false => IOCTLS[somebody.rng.usize(..IOCTLS.len())],
        };
        somebody.ioctl(cmd, orders.id);
        if somebody.rng.u32(..20) == 0 {
            let sectors = somebody.rng.u64(8..2 * SECTORS);
            let _ = control.update_size(orders.id, sectors);
        }
        std::thread::sleep(Duration::from_millis(somebody.rng.u64(..3)));
    }
}

/// The same from somebody without privileges: of the good devices, whose nodes are not his, he
/// learns nothing and changes nothing.
pub fn nobody(orders: &Orders) {
    let mut somebody = Somebody::new(Rng::with_seed(orders.seed), "/dev/null");
    loop {
        let theirs = somebody.rng.bool();
        let id = match theirs {
            true => somebody.rng.u32(beside::IDS),
            false => somebody.rng.u32(IDS),
        };
        let op = COMMANDS[somebody.rng.usize(..COMMANDS.len())];
        if somebody.rng.bool() {
            let result = somebody.command(op, id);
            if theirs && op != ublk::U_CMD_GET_FEATURES && result >= 0 {
                violation(&format!(
                    "command {op:#x} on a device of root's gave {result}"
                ));
            }
        } else {
            let cmd = IOCTLS[somebody.rng.usize(..IOCTLS.len())];
            let result = somebody.ioctl(cmd, id);
            if result >= 0 && cmd != ubd::CMD_FEATURES {
                violation(&format!("ioctl {cmd:#x} gave {result}"));
            }
        }
    }
}
