// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf load`

use super::apart;
use crate::cli::output;
use crate::fastpath::{self, Name, Outcome, Setting, Source};
use anyhow::Result;

/// Load a program, so that it can be bound to devices
///
/// It stays loaded, pinned under /sys/fs/bpf/ubd/, until `ubd-bpf unload`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The object file, or the name of one that ships with ubd: `linear`, `concat`, `stripe`
    #[arg(value_name = "PROG.o")]
    object: String,
    /// Its name in the driver, instead of the one in the object
    #[arg(long)]
    name: Option<Name>,
    /// Set a `const volatile` variable: VAR=VALUE, VAR=V0,V1,… or VAR[I]=VALUE
    #[arg(long = "set", value_name = "VAR=VALUE", allow_hyphen_values = true)]
    settings: Vec<Setting>,
    /// Take the place of the loaded program of the same name, on all its devices at once
    #[arg(long)]
    replace: bool,
}

pub fn run(args: &Args) -> Result<()> {
    apart::run(&args.object, || load(args))
}

fn load(args: &Args) -> Result<()> {
    let source = Source::find(&args.object)?;
    let (name, outcome) =
        fastpath::load(&source, args.name.as_ref(), &args.settings, args.replace)?;
    output::line(&match outcome {
        Outcome::Loaded => format!("loaded {name}"),
        Outcome::Replaced => format!("replaced {name}"),
    })
}
