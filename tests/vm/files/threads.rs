// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads that call file systems for others.

use std::fs;

use anyhow::{ensure, Context, Result};

use super::{Image, EXT4};
use crate::support::sh;

/// Their allocations do no I/O, and nobody makes them wait for dirty pages of others. Without, they
/// would wait for memory whose writeback waits for them, which few runs get to see: so it is the
/// flags that are looked at, of /proc/PID/stat.
pub fn out_of_reclaim() -> Result<()> {
    const MEMALLOC_NOIO: u64 = 0x0008_0000;
    const LOCAL_THROTTLE: u64 = 0x0010_0000;
    const BOTH: u64 = MEMALLOC_NOIO | LOCAL_THROTTLE;
    let image = Image::new(EXT4, 8 << 20)?;
    let ubd = image.device()?;
    let pids = sh(format!("pgrep '^ubd{}/[0-9]' || true", ubd.id()))?;
    let mut seen = 0;
    for pid in pids.split_whitespace() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, which may have blanks, is in parentheses; the flags are the 9th field.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let flags: u64 = fields
            .split_whitespace()
            .nth(6)
            .context("no flags")?
            .parse()?;
        ensure!(flags & BOTH == BOTH, "thread {pid} has flags {flags:#x}");
        seen += 1;
    }
    ensure!(seen >= 3, "only {seen} threads: {pids}");
    Ok(())
}
