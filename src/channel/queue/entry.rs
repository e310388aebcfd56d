// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system call of a queue's loop, in its cheapest form.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{EnterFlags, IoUring};

/// Of `linux/io_uring.h`; the library keeps what it registers to a borrow of the ring.
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    resv: u32,
    data: u64,
}

/// How a ring is entered, by the one thread that does.
///
/// The thread knows the ring by a number of its own, which spares each call the look-up of a
/// descriptor that other threads might close. And it does not count as one that waits for a disk:
/// it waits for work.
pub(super) struct Entry {
    ring: RawFd,
    /// The thread's number for the ring, or `None`: the kernel gave none.
    number: Option<u32>,
    flags: EnterFlags,
}

impl Entry {
    /// For the calling thread, which also has to drop it, before it closes `ring`.
    pub(super) fn new(ring: &IoUring) -> Self {
        let number = register(ring.as_raw_fd());
        let mut flags = EnterFlags::empty();
        flags.set(EnterFlags::REGISTERED_RING, number.is_some());
        flags.set(EnterFlags::NO_IOWAIT, ring.params().is_feature_no_iowait());
        Entry {
            ring: ring.as_raw_fd(),
            number,
            flags,
        }
    }

    /// Submits what has been pushed to `ring` and waits for `want` completions.
    pub(super) fn enter(&self, ring: &mut IoUring, want: u32) -> io::Result<()> {
        self.call(ring.submission().len() as u32, want, want > 0)
    }

    /// Lets the kernel tell what has ended by now, though it could not take anything.
    pub(super) fn look(&self) -> io::Result<()> {
        self.call(0, 0, true)
    }

    fn call(&self, submit: u32, want: u32, get: bool) -> io::Result<()> {
        let mut flags = self.flags;
        flags.set(EnterFlags::GETEVENTS, get);
        let fd = self.number.unwrap_or(self.ring as u32);
        // SAFETY: there is no argument, and what the entries point to was promised when they were
        // pushed.
        let res = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                submit,
                want,
                flags.bits(),
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
        match res {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // The number holds the ring: what it still has to do would only end with the thread.
        if let Some(offset) = self.number {
            let mut update = Update {
                offset,
                resv: 0,
                data: 0,
            };
            call(self.ring, IORING_UNREGISTER_RING_FDS, &mut update);
        }
    }
}

fn register(ring: RawFd) -> Option<u32> {
    let mut update = Update {
        offset: u32::MAX, // any that is free
        resv: 0,
        data: ring as u64,
    };
    let given = call(ring, IORING_REGISTER_RING_FDS, &mut update);
    given.then_some(update.offset)
}

/// Whether the kernel has done it.
fn call(ring: RawFd, op: u32, update: &mut Update) -> bool {
    // SAFETY: the kernel reads and writes one such structure.
    let res = unsafe { libc::syscall(libc::SYS_io_uring_register, ring, op, &raw mut *update, 1) };
    res == 1
}
