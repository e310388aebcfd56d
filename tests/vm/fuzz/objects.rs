// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects that no compiler made, as far as the verifier and the driver.

use std::fs;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use fastrand::Rng;

#[path = "../../objects/mutant.rs"]
mod mutant;

use super::seed;
use crate::support::{object, sh, shipped_object};

/// Where they are written to, and the name that they get.
const PATH: &str = "/tmp/mutant.bpf.o";
const NAME: &str = "mutant";

pub fn objects() -> Result<()> {
    let first = seed::seed("fuzz/objects");
    let good = [
        shipped_object("linear"),
        shipped_object("concat"),
        shipped_object("cluster"),
        object("settings"),
    ];
    let good = good
        .iter()
        .map(fs::read)
        .collect::<Result<Vec<_>, _>>()
        .context("failed to read an object")?;
    let count = if seed::long() { 2000 } else { 25 };
    let (mut loaded, mut refused) = (0, 0);
    for number in 0..count {
        let seed = first.wrapping_add(number);
        let mut rng = Rng::with_seed(seed);
        // As it is now and then, or nothing would ever be loaded.
        let bytes = match number % 8 {
            0 => good[rng.usize(..good.len())].clone(),
            _ => mutant::mutant(&good[rng.usize(..good.len())], &mut rng),
        };
        fs::write(PATH, bytes)?;
        let words = ["120", "ubd-bpf", "load", PATH, "--name", NAME];
        let output = Command::new("timeout").args(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {
                sh(format!("ubd-bpf test {NAME}; ubd-bpf unload {NAME}"))
                    .or_else(|_| sh(format!("ubd-bpf unload {NAME}")))?;
                loaded += 1;
            }
            Some(1 | 2) if said.len() > 10 && !said.contains("panicked") => refused += 1,
            _ => ensure!(false, "UBD_SEED={seed}: {}: {said}", output.status),
        }
    }
    println!("{loaded} loaded, {refused} refused");
    ensure!(
        loaded > 0 && refused > 0,
        "{loaded} loaded, {refused} refused"
    );
    fs::remove_file(PATH)?;
    Ok(())
}
