// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's side of `cargo xtask bench`: makes the backings and the paths to them, and measures.
//! It runs as root in a virtual machine and is not meant for a machine that you care about.
//!
//! * `bench cells BACKING`: measures what `/ubd/run/plan.json` asks for (a list of [`plan::Job`]);
//!   a line of JSON a cell goes to `/ubd/out/results.jsonl`.
//! * `bench profile BACKING`: keeps each job of the plan running while the host watches.
//! * `bench devices IOS`: what devices cost that do nothing; `/ubd/out/devices.json`.
//! * `bench wall SECONDS`: time instead of instructions; `/ubd/out/wall.json`.
//!
//! Environment: `UBD_KO` is the module, `UBD_BPF_DIR` has the compiled test programs.

mod backing;
mod cells;
mod clusters;
mod devices;
mod fio;
mod path;
mod plan;
mod profile;
mod shell;
mod wall;

use std::process::ExitCode;

use anyhow::{bail, Context, Result};

use backing::Kind;

/// Loads the driver. udev's watch on the nodes, which probes a disk after every close of a writer
/// and would be counted, is off for all disks alike.
///
/// The clock of a machine that has nothing to do but wait for its host jumps ahead: udev may seem
/// to take minutes for an answer, and is asked again.
fn prepare() -> Result<()> {
    shell::sh(
        "mkdir -p /run/udev/rules.d
         echo 'SUBSYSTEM==\"block\", OPTIONS:=\"nowatch\"' > /run/udev/rules.d/99-nowatch.rules
         for again in 1 2 3 4 5; do udevadm control --reload && break; done
         insmod \"$UBD_KO\"
         udevadm settle --timeout=60",
    )
    .context("failed to load the driver")?;
    Ok(())
}

fn run(args: &[&str]) -> Result<()> {
    prepare()?;
    match args {
        ["cells", kind] => cells::run(Kind::parse(kind)?),
        ["profile", kind] => profile::run(Kind::parse(kind)?),
        ["devices", ios] => devices::run(ios.parse().context("IOS is a number")?),
        ["wall", seconds] => wall::run(seconds.parse().context("SECONDS is a number")?),
        _ => bail!("run `cargo xtask bench`; it starts this program in a virtual machine"),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
