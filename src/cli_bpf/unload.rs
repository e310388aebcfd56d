// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf unload`

use super::print;
use crate::error::Result;
use crate::fastpath::{self, Name};

/// Unload a program; its devices ask their daemons for everything from then on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program
    name: Name,
}

pub fn run(args: &Args) -> Result<()> {
    let devices = fastpath::unload(&args.name)?;
    print::line(&match devices {
        0 => format!("unloaded {}", args.name),
        1 => format!("unloaded {}, unbound from 1 device", args.name),
        n => format!("unloaded {}, unbound from {n} devices", args.name),
    })
}
