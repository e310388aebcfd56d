// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf unload`

use crate::cli::output;
use crate::fastpath::{self, Name};
use anyhow::Result;

/// Unload a program; its devices ask their daemons for everything from then on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program
    name: Name,
}

pub fn run(args: &Args) -> Result<()> {
    let devices = fastpath::unload(&args.name)?;
    output::line(&match devices {
        0 => format!("unloaded {}", args.name),
        1 => format!("unloaded {}, unbound from 1 device", args.name),
        n => format!("unloaded {}, unbound from {n} devices", args.name),
    })
}
