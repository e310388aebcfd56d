// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask soak`: everything at once, in one machine, for as long as asked for. What happens
//! is in `tests/vm/soak.rs`.

use anyhow::Result;
use clap::Args;

use crate::kernel::Kernel;
use crate::{test, vm};

/// `cargo xtask soak`
#[derive(Args)]
pub struct SoakArgs {
    /// How long
    #[arg(long, default_value_t = 30)]
    minutes: u64,

    /// Of all random numbers: what happens, and in which order [default: another each time]
    #[arg(long)]
    seed: Option<u64>,

    /// Print JSON: an object a minute, and one at the end
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: vm::Machine,
}

/// Runs it; 1 if something was wrong.
pub fn command(kernel: &Kernel, args: &SoakArgs) -> Result<u8> {
    let seed = args.seed.unwrap_or_else(another);
    eprintln!("xtask: a soak of {} minutes, --seed {seed}", args.minutes);
    let guest = test::guest(kernel)?;
    let mut words = vec![
        test::PROGRAM.into(),
        "--soak".into(),
        args.minutes.to_string().into(),
        seed.to_string().into(),
    ];
    if args.json {
        words.push("--json".into());
    }
    match vm::run(kernel, &args.machine, &guest, &words)? {
        0 => Ok(0),
        _ => Ok(1),
    }
}

/// A seed that is easily typed.
fn another() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.as_secs() % 1_000_000)
}
