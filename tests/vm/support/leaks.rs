// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the driver that nothing points to any more; only a kernel with kmemleak tells.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// It takes nothing younger for a leak.
const YOUNG: Duration = Duration::from_secs(6);

pub fn are_watched() -> bool {
    Path::new(KMEMLEAK).exists() && fs::write(KMEMLEAK, "scan").is_ok()
}

/// To be asked while the module is loaded: later, its functions have no names.
pub fn none() -> Result<()> {
    sleep(YOUNG);
    // It reports what it has found twice without a change in between.
    for _ in 0..2 {
        fs::write(KMEMLEAK, "scan").context("failed to look for leaks")?;
    }
    let all = fs::read_to_string(KMEMLEAK)?;
    let ours = of_the_driver(&all);
    ensure!(
        ours.is_empty(),
        "{} object(s) of the driver are lost, the first:\n{}",
        ours.len(),
        ours[0]
    );
    Ok(())
}

/// Those that a function of the driver has allocated.
fn of_the_driver(all: &str) -> Vec<&str> {
    const HEAD: &str = "unreferenced object";
    let heads: Vec<_> = all.match_indices(HEAD).map(|(at, _)| at).collect();
    let ends = heads.iter().skip(1).copied().chain([all.len()]);
    heads
        .iter()
        .zip(ends)
        .map(|(&start, end)| &all[start..end])
        .filter(|object| object.contains("[ubd_drv]"))
        .collect()
}
