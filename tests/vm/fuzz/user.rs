// SPDX-License-Identifier: MIT OR Apache-2.0
//! A user of a disk that may fail, stand still or go at any time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;

use fastrand::Rng;

use super::role::Orders;
use crate::control::server::SECTORS;
use crate::support::io::{discard, read_flags, write_flags, zero_out, Aligned};

const LONGEST: usize = 256 << 10;

pub fn run(orders: &Orders) {
    for number in 0..3 {
        let mut rng = Rng::with_seed(orders.seed.wrapping_add(number));
        let node = format!("/dev/ubdb{}", orders.id);
        std::thread::spawn(move || loop {
            let flags = if rng.bool() { libc::O_DIRECT } else { 0 };
            let open = OpenOptions::new()
                .read(true)
                .write(rng.u32(0..4) > 0)
                .custom_flags(flags | libc::O_NONBLOCK)
                .open(&node);
            match open {
                Ok(file) => use_it(&file, &mut rng),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        });
    }
    loop {
        std::thread::park();
    }
}

fn use_it(file: &File, rng: &mut Rng) {
    for _ in 0..rng.u32(1..100) {
        let longest = LONGEST >> rng.u32(..10);
        let len = rng.usize(1..=longest).next_multiple_of(512);
        let at = rng.u64(..SECTORS) << 9;
        let mut buffer = Aligned::shifted(len, rng.usize(..8) * 512);
        let nowait = if rng.u32(0..4) == 0 {
            libc::RWF_NOWAIT
        } else {
            0
        };
        let dsync = if rng.u32(0..4) == 0 {
            libc::RWF_DSYNC
        } else {
            0
        };
        // Any of these may fail: the server is who it is.
        match rng.u32(0..10) {
            0..4 => drop(read_flags(file, &mut buffer, at, nowait)),
            4..7 => drop(write_flags(file, &buffer, at, nowait | dsync)),
            7 => drop(file.sync_data()),
            8 => drop(discard(file, at, len as u64)),
            _ if rng.bool() => drop(zero_out(file, at, len as u64)),
            _ => drop(file.read_at(&mut buffer, at)),
        }
    }
}
