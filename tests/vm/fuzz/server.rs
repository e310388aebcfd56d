// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that fetches every tag as it should, so that its device starts, and then does as it
//! likes: answers, forwards, borrows, cancels, maps, forks, dies.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use ubd_bpf::control::Control;
use ubd_bpf::uapi::{ubd, ublk, Plain};

use super::arena::Arena;
use super::memory;
use super::role::Orders;
use super::sqe::{Ring, Sqe};
use crate::control::server::{IO_BYTES, SECTORS};

/// `_IOWR('u', nr, 16 bytes)`.
const fn io(nr: u32) -> u32 {
    3 << 30 | 16 << 16 | 0x75 << 8 | nr
}

const PREP: u32 = io(0x25);
const COMMIT_BATCH: u32 = io(0x26);
const FETCH_BATCH: u32 = io(0x27);
/// All that the channel knows, and a little more.
const OPS: [u32; 11] = [
    io(0x20),
    io(0x21),
    io(0x21),
    io(0x22),
    io(0x23),
    io(0x24),
    PREP,
    COMMIT_BATCH,
    FETCH_BATCH,
    ubd::U_IO_FORWARD,
    io(0x28),
];
const MULTISHOT: u32 = 1 << 1;
const BUFFER_SELECT: u8 = 1 << 5;
/// The group of provided buffers of [`Ring`].
const GROUP: u16 = 7;

pub struct Server {
    pub node: File,
    pub id: u32,
    info: ublk::DevInfo,
    pub arena: Mutex<Arena>,
}

pub fn run(orders: &Orders) {
    let control = Control::open().expect("the control node");
    let mut rng = Rng::with_seed(orders.seed);
    // The device may come and go, or be somebody else's.
    let (info, node) = loop {
        let node = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/dev/ubdc{}", orders.id));
        match (control.dev_info(orders.id), node) {
            (Ok(info), Ok(node)) => break (info, node),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let server = Arc::new(Server {
        node,
        id: orders.id,
        info,
        arena: Mutex::new(Arena::new()),
    });
    for number in 0..rng.u32(0..3) {
        let (server, mut rng) = (server.clone(), rng.fork());
        std::thread::spawn(move || match number {
            0 => memory::play(&server, &mut rng),
            _ => server.strange(&mut rng),
        });
    }
    server.serve(&mut rng);
}

impl Server {
    fn batches(&self) -> bool {
        self.info.flags & ublk::F_BATCH_IO != 0
    }

    fn place(&self, rng: &mut Rng) -> (u16, u16) {
        match rng.u32(0..20) {
            0 => (rng.u16(..), rng.u16(..)),
            1 => (self.info.nr_hw_queues, self.info.queue_depth),
            _ => (
                rng.u16(..self.info.nr_hw_queues),
                rng.u16(..self.info.queue_depth),
            ),
        }
    }

    fn tags(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let depth = self.info.queue_depth;
        (0..self.info.nr_hw_queues).flat_map(move |q_id| (0..depth).map(move |tag| (q_id, tag)))
    }

    /// The command that a good server gives for a tag.
    fn good(&self, op: u32, (q_id, tag): (u16, u16), result: i32, rng: &mut Rng) -> Sqe {
        let copies = ublk::F_USER_COPY | ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG;
        let addr = match self.info.flags & copies {
            0 => self.arena().good(IO_BYTES, rng),
            _ => 0,
        };
        let cmd = ublk::IoCmd {
            q_id,
            tag,
            result,
            addr,
        };
        Sqe {
            fd: self.node.as_raw_fd(),
            op,
            // Where a request's buffer is registered.
            addr: u64::from(tag),
            user_data: u64::from(q_id) << 16 | u64::from(tag),
            cmd: cmd.as_bytes().try_into().expect("16 bytes"),
            ..Sqe::default()
        }
    }

    /// PREP or COMMIT of one tag.
    fn batch(&self, op: u32, (q_id, tag): (u16, u16), result: i32, rng: &mut Rng) -> Sqe {
        let copies = ublk::F_USER_COPY | ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG;
        let with_addr = self.info.flags & copies == 0;
        let mut element = [0u8; 16];
        element[..2].copy_from_slice(&tag.to_ne_bytes());
        element[2..4].copy_from_slice(&tag.to_ne_bytes());
        element[4..8].copy_from_slice(&result.to_ne_bytes());
        let arena = self.arena();
        element[8..].copy_from_slice(&arena.good(IO_BYTES, rng).to_ne_bytes());
        Sqe {
            fd: self.node.as_raw_fd(),
            op,
            addr: arena.put(&element, rng),
            user_data: u64::MAX,
            cmd: head(
                q_id,
                u16::from(with_addr) << 1,
                1,
                if with_addr { 16 } else { 8 },
            ),
            ..Sqe::default()
        }
    }

    fn fetch_batch(&self, q_id: u16) -> Sqe {
        Sqe {
            flags: BUFFER_SELECT,
            fd: self.node.as_raw_fd(),
            op: FETCH_BATCH,
            cmd_flags: MULTISHOT,
            buf_index: GROUP,
            user_data: u64::from(q_id) << 16 | 1 << 40,
            cmd: head(q_id, 0, 0, 2),
            ..Sqe::default()
        }
    }

    pub fn arena(&self) -> std::sync::MutexGuard<'_, Arena> {
        self.arena.lock().expect("the arena")
    }

    /// Good at first.
    fn serve(&self, rng: &mut Rng) {
        let Some(mut ring) = Ring::any(rng) else {
            return;
        };
        for place in self.tags() {
            ring.command(&match self.batches() {
                false => self.good(ublk::U_IO_FETCH_REQ, place, 0, rng),
                true => self.batch(PREP, place, 0, rng),
            });
            ring.turn(Duration::from_micros(10));
        }
        for q_id in 0..self.info.nr_hw_queues {
            if self.batches() {
                ring.command(&self.fetch_batch(q_id));
            }
        }
        let madness = [0, 2, 10, 50][rng.usize(..4)];
        loop {
            for (user_data, result) in ring.turn(Duration::from_millis(5)) {
                let place = ((user_data >> 16) as u16, user_data as u16);
                if user_data >> 40 == 1 {
                    self.answer_batch(&mut ring, place.0, rng);
                } else if result >= 0 && user_data < 1 << 32 {
                    self.answer(&mut ring, place, rng);
                }
            }
            if rng.u32(0..100) < madness {
                let sqe = self.any(rng);
                ring.command(&sqe);
            }
            match rng.u32(0..3000) * u32::from(madness > 0) {
                1 => std::process::exit(0),
                2 => return, // the ring goes, and this thread
                3 => ring.cancel(0, true),
                _ => {}
            }
        }
    }

    fn answer(&self, ring: &mut Ring, place: (u16, u16), rng: &mut Rng) {
        let op = match rng.u32(0..20) {
            0 => return, // never
            1 if self.info.flags & ublk::F_NEED_GET_DATA != 0 => ublk::U_IO_NEED_GET_DATA,
            2..6 => return ring.command(&self.forward(place, rng)),
            6 => ublk::U_IO_REGISTER_IO_BUF,
            _ => ublk::U_IO_COMMIT_AND_FETCH_REQ,
        };
        let result = self.result(rng);
        ring.command(&self.good(op, place, result, rng));
        // A forward or a loan that was refused is answered after all, if the tag is still here.
        if rng.u32(0..4) == 0 {
            ring.command(&self.good(ublk::U_IO_COMMIT_AND_FETCH_REQ, place, result, rng));
        }
    }

    fn answer_batch(&self, ring: &mut Ring, q_id: u16, rng: &mut Rng) {
        for tag in 0..self.info.queue_depth {
            let result = self.result(rng);
            ring.command(&self.batch(COMMIT_BATCH, (q_id, tag), result, rng));
            ring.turn(Duration::from_micros(10));
        }
        ring.command(&self.fetch_batch(q_id));
    }

    fn result(&self, rng: &mut Rng) -> i32 {
        match rng.u32(0..10) {
            0 => 0,
            1 => -libc::EIO,
            2 => -libc::EAGAIN,
            3 => rng.i32(..),
            4 => i32::MIN,
            5 => i32::MAX,
            6 => rng.i32(..IO_BYTES as i32),
            _ => IO_BYTES as i32,
        }
    }

    /// To a slot that may be there, with a word to install that may be anywhere.
    fn forward(&self, (q_id, tag): (u16, u16), rng: &mut Rng) -> Sqe {
        let cmd = ubd::Forward {
            q_id,
            tag,
            slot: [0, 0, 1, 63, 64, rng.u32(..)][rng.usize(..6)],
            sector: match rng.u32(0..6) {
                0 => rng.u64(..),
                1 => u64::MAX - rng.u64(..256),
                _ => rng.u64(..2 * SECTORS),
            },
        };
        let arena = self.arena();
        let install = ubd::Install {
            addr: match rng.bool() {
                true => arena.good(8, rng),
                false => arena.any(rng),
            },
            expect: rng.u64(..2),
            value: rng.u64(..),
        };
        Sqe {
            fd: self.node.as_raw_fd(),
            op: ubd::U_IO_FORWARD,
            len: [0, 0, 0, 1, 8, rng.u32(..)][rng.usize(..6)],
            addr: match rng.u32(0..4) {
                0 => arena.any(rng),
                1 => arena.put(install.as_bytes(), rng),
                _ => 0,
            },
            user_data: u64::from(q_id) << 16 | u64::from(tag),
            cmd: cmd.as_bytes().try_into().expect("16 bytes"),
            ..Sqe::default()
        }
    }

    /// Anything.
    fn any(&self, rng: &mut Rng) -> Sqe {
        let place = self.place(rng);
        let op = OPS[rng.usize(..OPS.len())];
        let mut sqe = match op {
            ubd::U_IO_FORWARD => self.forward(place, rng),
            PREP | COMMIT_BATCH => self.batch(op, place, rng.i32(..), rng),
            FETCH_BATCH => self.fetch_batch(place.0),
            _ => self.good(op, place, self.result(rng), rng),
        };
        sqe.user_data = 1 << 41;
        // One or two fields of it.
        for _ in 0..rng.u32(0..3) {
            let any = self.arena().any(rng);
            match rng.u32(0..9) {
                0 => sqe.op ^= 1 << rng.u32(..32),
                1 => sqe.addr = any,
                2 => sqe.addr = rng.u64(..1 << 20),
                3 => sqe.cmd[8..].copy_from_slice(&any.to_ne_bytes()),
                4 => sqe.cmd[rng.usize(..16)] = rng.u8(..),
                5 => sqe.cmd_flags ^= 1 << rng.u32(..32),
                6 => sqe.buf_index = rng.u16(..16),
                7 => sqe.len = rng.u32(..),
                // Not LINK and DRAIN, after which a ring may do nothing any more.
                _ => sqe.flags ^= [1 << 4, 1 << 5, 1 << 6, 1][rng.usize(..4)],
            }
        }
        sqe
    }

    /// A thread that serves nothing, but has the file.
    fn strange(&self, rng: &mut Rng) {
        loop {
            let Some(mut ring) = Ring::any(rng) else {
                return;
            };
            for _ in 0..rng.u32(1..200) {
                let sqe = self.any(rng);
                ring.command(&sqe);
                ring.turn(Duration::from_millis(rng.u64(..3)));
                let place = 0x8000_0000 + (rng.u64(..1 << 30) & !511);
                let mut some = [0; 4096];
                match rng.u32(0..8) {
                    0 => drop(self.node.read_at(&mut some, place)),
                    1 => drop(self.node.write_at(&some, place)),
                    2 => ring.cancel(u64::from(rng.u32(..4)), rng.bool()),
                    _ => {}
                }
            }
        }
    }
}

/// `struct ublk_batch_io`.
fn head(q_id: u16, flags: u16, nr: u16, bytes: u8) -> [u8; 16] {
    let mut area = [0; 16];
    area[..2].copy_from_slice(&q_id.to_ne_bytes());
    area[2..4].copy_from_slice(&flags.to_ne_bytes());
    area[4..6].copy_from_slice(&nr.to_ne_bytes());
    area[6] = bytes;
    area
}
