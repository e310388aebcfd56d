// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf` and objects that no compiler made: each is opened, or refused with a reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails, panics"
)]

#[path = "objects/mutant.rs"]
mod mutant;
#[path = "support/seed.rs"]
mod seed;
#[path = "support/tool.rs"]
mod tool;

use fastrand::Rng;
use std::path::{Path, PathBuf};
use tool::Tool;

/// Objects with different things in them; build.rs compiles them.
const GOOD: [&str; 4] = ["linear", "concat", "cluster", "tests/settings"];

fn object(name: &str) -> PathBuf {
    // Beside the profiles' directories.
    let target = Path::new(env!("CARGO_BIN_EXE_ubd-bpf")).ancestors().nth(2);
    target.unwrap().join(format!("bpf/{name}.bpf.o"))
}

/// Whatever is wrong with an object: no crash, no hang, and a word about it.
#[test]
fn mutants_are_opened_or_refused() {
    let Some(tool) = Tool::without_driver(env!("CARGO_BIN_EXE_ubd-bpf")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let good: Vec<_> = GOOD
        .iter()
        .map(|name| std::fs::read(object(name)).unwrap())
        .collect();
    let first = seed::seed("object_props");
    let count = if seed::long() { 50_000 } else { 400 };
    let (mut opened, mut refused) = (0, 0);
    for number in 0..count {
        let seed = first.wrapping_add(number);
        let mut rng = Rng::with_seed(seed);
        let bytes = mutant::mutant(&good[rng.usize(..good.len())], &mut rng);
        let path = dir.path().join("mutant.bpf.o");
        std::fs::write(&path, &bytes).unwrap();
        let mut args = vec!["load", path.to_str().unwrap()];
        // One that meets the types of variables.
        let setting = [
            "linear_offset=1",
            "slot_len[3]=7",
            "grid=1,-2,3",
            "a_bool=true",
        ];
        if rng.bool() {
            args.extend(["--set", setting[rng.usize(..setting.len())]]);
        }
        let result = tool.run(&args);
        match result.code() {
            Some(69) => opened += 1, // as far as it gets without a driver
            Some(2) => refused += 1,
            _ => {
                let kept = std::env::temp_dir().join(format!("mutant-{seed}.bpf.o"));
                std::fs::copy(&path, &kept).unwrap();
                panic!("UBD_SEED={seed}: {args:?} ({}): {result}", kept.display());
            }
        }
        result
            .is_well_told()
            .unwrap_or_else(|why| panic!("UBD_SEED={seed}: {why}"));
    }
    println!("{opened} opened, {refused} refused");
    assert!(
        opened > count / 20 && refused > count / 20,
        "{opened} opened, {refused} refused"
    );
}
