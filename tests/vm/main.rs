// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests that need the driver. `cargo xtask test` runs this program as root in a virtual
//! machine; it loads the module, runs every test whose name contains one of the arguments, and
//! unloads the module, which must leave nothing behind. With `--soak`, it does all at once instead.
//!
//! Environment: `UBD_KO` is the module, `UBD_BPF_DIR` the directory of the compiled programs of
//! `tests/bpf`; `ubd`, `ubd-bpf` and `rublk` are on PATH.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod control;
mod crash;
mod data;
mod fastpath;
mod faults;
mod files;
mod flush;
mod forward;
mod fs;
mod fuzz;
mod lifecycle;
mod modes;
mod peer;
mod recovery;
mod resize;
mod serve;
mod slots;
mod soak;
mod suites;
mod support;
mod targets;
mod verdicts;

use support::{runner, supervisor, Test};

fn main() -> std::process::ExitCode {
    // Some tests start this program again, to be somebody else.
    fuzz::play();
    if let Ok(task) = std::env::var(crash::power::TASK) {
        return crash::power::run(&task);
    }
    let tests: Vec<&Test> = [
        data::TESTS,
        fs::TESTS,
        targets::TESTS,
        targets::by_hand::TESTS,
        fastpath::TESTS,
        fastpath::as_disk::TESTS,
        fastpath::shrunk::TESTS,
        verdicts::TESTS,
        lifecycle::TESTS,
        slots::TESTS,
        control::TESTS,
        flush::TESTS,
        files::TESTS,
        forward::TESTS,
        cluster::TESTS,
        peer::TESTS,
        recovery::TESTS,
        resize::TESTS,
        serve::TESTS,
        modes::TESTS,
        fuzz::TESTS,
        crash::TESTS,
        faults::TESTS,
        soak::TESTS,
        suites::TESTS,
    ]
    .into_iter()
    .flatten()
    .collect();
    supervisor::run(|args| match args.first() {
        Some(first) if first == soak::FLAG => soak::command(args),
        _ => runner::run(&tests, args),
    })
}
