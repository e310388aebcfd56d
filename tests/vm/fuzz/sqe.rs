// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings of every kind, and entries with anything in any field.

use std::time::Duration;

use fastrand::Rng;
use io_uring::{squeue, types, IoUring};

const URING_CMD: u8 = 46;
const ASYNC_CANCEL: u8 = 14;

/// The fields of a command that are met here, in the places of `struct io_uring_sqe`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sqe {
    pub flags: u8,
    pub fd: i32,
    pub op: u32,
    pub addr: u64,
    pub len: u32,
    pub cmd_flags: u32,
    pub user_data: u64,
    pub buf_index: u16,
    pub cmd: [u8; 16],
}

impl Sqe {
    fn bytes(&self, opcode: u8) -> [u8; 64] {
        let mut raw = [0; 64];
        raw[0] = opcode;
        raw[1] = self.flags;
        raw[4..8].copy_from_slice(&self.fd.to_ne_bytes());
        raw[8..12].copy_from_slice(&self.op.to_ne_bytes());
        raw[16..24].copy_from_slice(&self.addr.to_ne_bytes());
        raw[24..28].copy_from_slice(&self.len.to_ne_bytes());
        raw[28..32].copy_from_slice(&self.cmd_flags.to_ne_bytes());
        raw[32..40].copy_from_slice(&self.user_data.to_ne_bytes());
        raw[40..42].copy_from_slice(&self.buf_index.to_ne_bytes());
        raw[48..].copy_from_slice(&self.cmd);
        raw
    }
}

/// A ring of some kind.
pub struct Ring {
    ring: IoUring,
    /// What provided buffers are of.
    room: Box<[u16]>,
}

impl Ring {
    /// None if the kernel has no such ring.
    pub fn any(rng: &mut Rng) -> Option<Ring> {
        let mut builder = IoUring::builder();
        builder.dontfork();
        match rng.u32(0..8) {
            0 => drop(builder.setup_sqpoll(20)),
            1 => drop(builder.setup_single_issuer().setup_defer_taskrun()),
            2 => drop(builder.setup_coop_taskrun()),
            3 => drop(builder.setup_iopoll()),
            4 => drop(builder.setup_single_issuer()),
            _ => {}
        }
        let ring = builder.build(64).ok()?;
        let mut ring = Ring {
            ring,
            room: vec![0; 64].into(),
        };
        // For commands that register buffers, and for FETCH of batches.
        if rng.u32(0..4) > 0 {
            let _ = ring.ring.submitter().register_buffers_sparse(32);
            for id in 0..4 {
                let at = ring.room[usize::from(id) * 16..].as_mut_ptr();
                let provide = io_uring::opcode::ProvideBuffers::new(at.cast(), 32, 1, 7, id);
                // SAFETY: the room lives as long as the ring.
                let _ = unsafe { ring.ring.submission().push(&provide.build()) };
            }
        }
        Some(ring)
    }

    fn push(&mut self, raw: [u8; 64]) {
        // SAFETY: an entry is 64 bytes of integers, laid out as the kernel's.
        let entry: squeue::Entry = unsafe { std::mem::transmute_copy(&raw) };
        // SAFETY: whatever it points to, it belongs to this process and is nobody's Rust.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }

    pub fn command(&mut self, sqe: &Sqe) {
        self.push(sqe.bytes(URING_CMD));
    }

    /// Cancels a command, or any.
    pub fn cancel(&mut self, user_data: u64, any: bool) {
        let sqe = Sqe {
            fd: -1,
            addr: user_data,
            cmd_flags: if any { 1 << 0 | 1 << 2 } else { 0 },
            ..Sqe::default()
        };
        self.push(sqe.bytes(ASYNC_CANCEL));
    }

    /// Submits, and gives what has ended within a moment: user data and result.
    pub fn turn(&mut self, moment: Duration) -> Vec<(u64, i32)> {
        let moment = types::Timespec::from(moment);
        let args = types::SubmitArgs::new().timespec(&moment);
        let _ = self.ring.submitter().submit_with_args(1, &args);
        let done = self.ring.completion();
        done.map(|cqe| (cqe.user_data(), cqe.result())).collect()
    }
}
