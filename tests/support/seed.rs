// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random tests that can be repeated: the seed is printed, and `UBD_SEED` sets it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seed of this run, told on stdout under `name`.
pub fn seed(name: &str) -> u64 {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_nanos() as u64)
    };
    let seed = match std::env::var("UBD_SEED") {
        Ok(text) => text.parse().expect("UBD_SEED is a number"),
        Err(_) => now(),
    };
    println!("{name}: UBD_SEED={seed}");
    seed
}

/// Whether there is time: `UBD_LONG`.
pub fn long() -> bool {
    std::env::var_os("UBD_LONG").is_some()
}
