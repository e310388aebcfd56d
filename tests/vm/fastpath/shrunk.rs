// SPDX-License-Identifier: MIT OR Apache-2.0
//! A backing file that gets shorter while it is a slot: errors, never memory of somebody else's.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Result};

use crate::support::backing::{Backing, Kind};
use crate::support::io::{open_buffered, open_direct, Aligned};
use crate::support::Test;

pub const TESTS: &[Test] = &[
    Test::new("shrunk/file_direct", || shrunk(Kind::FileDirect)),
    Test::new("shrunk/file_buffered", || shrunk(Kind::FileBuffered)),
];

const MIB: u64 = 1 << 20;

fn shrunk(kind: Kind) -> Result<()> {
    let backing = Backing::with_window(kind, 0..8 << 20)?;
    let ubd = backing.device("--bpf-fastpath")?;
    let disk = open_direct(ubd.node(), true)?;
    let file = open_buffered(&backing.path)?;
    file.set_len(MIB + 4096)?;
    let before = ubd.counters()?;

    // What is left is read as ever.
    let mut buffer = Aligned::new(8192);
    disk.read_exact_at(&mut buffer, MIB - 4096)?;
    ensure!(
        buffer[..] == backing.shown()[MIB as usize - 4096..][..8192],
        "the rest of the file reads differently"
    );
    // Beyond, and across the new end: the driver asks the daemon, who cannot either.
    for at in [2 * MIB, MIB] {
        ensure!(
            disk.read_exact_at(&mut buffer, at).is_err(),
            "a read at {at} succeeded behind the end of the file"
        );
    }
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["read_mapped"] == 3 && count["read_declined"] == 2,
        "one of three mapped reads was inside the file: {}",
        count.summary()
    );
    // Longer again, it reads zeroes where it was cut, mapped.
    file.set_len(8 * MIB)?;
    disk.read_exact_at(&mut buffer, 2 * MIB)?;
    ensure!(
        buffer.iter().all(|byte| *byte == 0),
        "a hole does not read as zeroes"
    );
    Ok(())
}
