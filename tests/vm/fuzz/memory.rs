// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server may try with the memory that it shares with the driver: to write descriptors, to
//! map what is not its, to hand over memory that is none.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::null_mut;
use std::time::Duration;

use fastrand::Rng;
use ubd_bpf::uapi::ublk;

use super::role::violation;
use super::server::Server;
use crate::control::server::descs_offset;

const PAGE: usize = 4096;

/// Goes on until the process ends.
pub fn play(server: &Server, rng: &mut Rng) {
    let mut mapped = Vec::new();
    loop {
        match rng.u32(0..12) {
            0..4 => mapped.extend(map(server, rng)),
            4 => {
                let at = rng.usize(..=mapped.len());
                mapped.drain(at..).for_each(unmap);
            }
            5 => forked(server, rng),
            6 if rng.u32(0..8) == 0 => disk_pages(server, rng),
            7 => copy(server, rng),
            _ => {
                if !mapped.is_empty() {
                    let (at, len) = mapped[rng.usize(..mapped.len())];
                    tamper(at, len, rng);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(rng.u64(..4)));
    }
}

fn mmap(node: &File, len: usize, prot: i32, flags: i32, offset: u64) -> Option<u64> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe {
        let offset = offset as libc::off_t;
        libc::mmap(null_mut(), len, prot, flags, node.as_raw_fd(), offset)
    };
    (at != libc::MAP_FAILED).then_some(at as u64)
}

fn unmap((at, len): (u64, usize)) {
    // SAFETY: a mapping that nobody holds a reference to; the kernel may meet its address.
    unsafe { libc::munmap(at as *mut _, len) };
}

/// The descriptors, or something like them.
fn map(server: &Server, rng: &mut Rng) -> Option<(u64, usize)> {
    let len = PAGE * [1, 1, 1, 2, 24, 1 << 20][rng.usize(..6)];
    let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
    let prot = [read, read, read, read | write, write, libc::PROT_EXEC, 0][rng.usize(..7)];
    let shared = libc::MAP_SHARED;
    let flags = [
        shared,
        shared,
        libc::MAP_PRIVATE,
        shared | libc::MAP_POPULATE,
    ][rng.usize(..4)];
    let offset = match rng.u32(0..6) {
        0 => rng.u64(..1 << 40) & !(PAGE as u64 - 1),
        1 => PAGE as u64,
        2 => descs_offset(u16::MAX),
        n => descs_offset((n % 2) as u16),
    };
    let at = mmap(&server.node, len, prot, flags, offset)?;
    if prot & write != 0 {
        violation("the descriptors can be mapped for writing");
    }
    if prot & read != 0 {
        read_all(at, len);
    }
    let mut arena = server.arena();
    if arena.others.len() < 8 {
        arena.others.push(at);
    }
    Some((at, len))
}

fn read_all(at: u64, len: usize) {
    for word in (0..len.min(2 * PAGE)).step_by(8) {
        // SAFETY: a mapping with PROT_READ of whole pages.
        unsafe { ((at + word as u64) as *const u64).read_volatile() };
    }
}

/// Tries to write to descriptors, or to get at more than them.
fn tamper(at: u64, len: usize, rng: &mut Rng) {
    let start: *mut libc::c_void = at as *mut _;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    match rng.u32(0..6) {
        0 => {
            // SAFETY: at worst, our own descriptors can be written to.
            if unsafe { libc::mprotect(start, len, rw) } == 0 {
                violation("the descriptors can be made writable");
            }
        }
        1 => {
            // Writes by force, as a debugger does.
            let memory = OpenOptions::new().write(true).open("/proc/self/mem");
            if memory.is_ok_and(|memory| memory.write_at(&[0xff; 8], at).is_ok()) {
                violation("the descriptors can be written through /proc/self/mem");
            }
        }
        2 => {
            // SAFETY: the old mapping stays, or moves, and is used by its address only.
            let grown = unsafe { libc::mremap(start, len, 2 * len, libc::MREMAP_MAYMOVE) };
            if grown != libc::MAP_FAILED {
                violation("the mapping of the descriptors can grow");
            }
        }
        3 => {
            let iov = libc::iovec {
                iov_base: start,
                iov_len: 8,
            };
            let from = [0xffu8; 8];
            let local = libc::iovec {
                iov_base: from.as_ptr().cast_mut().cast(),
                iov_len: 8,
            };
            // SAFETY: two valid vectors.
            let n = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &iov, 1, 0) };
            if n > 0 {
                violation("the descriptors can be written by process_vm_writev");
            }
        }
        _ => {
            // SAFETY: advice on pages that hold nothing of Rust's.
            unsafe { libc::madvise(start, len, rng.i32(..26)) };
        }
    }
}

/// A child has the file, and another address space.
fn forked(server: &Server, rng: &mut Rng) {
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: rng.i64(..200_000_000),
    };
    let offset = descs_offset(0);
    // SAFETY: the child makes system calls only, and leaves without unwinding.
    unsafe {
        match libc::fork() {
            0 => {
                mmap(
                    &server.node,
                    PAGE,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    offset,
                );
                let mut byte = 0u8;
                let to = (&raw mut byte).cast();
                libc::pread(server.node.as_raw_fd(), to, 1, ublk::IO_BUF_OFFSET as i64);
                libc::nanosleep(&pause, null_mut());
                libc::_exit(0);
            }
            child => {
                if rng.bool() {
                    libc::waitpid(child, null_mut(), 0);
                }
            }
        }
    }
}

/// The pages of the disk that this server serves: whoever copies there waits for itself.
fn disk_pages(server: &Server, rng: &mut Rng) {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/dev/ubdb{}", server.id));
    let Ok(disk) = disk else { return };
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let at = mmap(&disk, 16 * PAGE, rw, libc::MAP_SHARED, rng.u64(..64) << 12);
    server.arena().others.extend(at);
}

/// USER_COPY to and from any memory.
fn copy(server: &Server, rng: &mut Rng) {
    let fd = server.node.as_raw_fd();
    let at = server.arena().any(rng) as *mut libc::c_void;
    let len = 1usize << rng.u32(..20);
    let queue = rng.u64(..3) << 41;
    let place = ublk::IO_BUF_OFFSET + queue + (rng.u64(..17) << 25) + (rng.u64(..130) << 9);
    // SAFETY: any address, but none of Rust's: it is the kernel that must cope.
    unsafe {
        match rng.bool() {
            true => libc::pread(fd, at, len, place as i64),
            false => libc::pwrite(fd, at, len, place as i64),
        };
    }
}
