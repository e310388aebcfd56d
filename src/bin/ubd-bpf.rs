// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf`: load mapping programs and bind them to devices.

use clap::Parser;
use std::process::ExitCode;
use ubd_bpf::cli::{init_log, output::finish};
use ubd_bpf::cli_bpf::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log("ubd-bpf", cli.verbose);
    finish("ubd-bpf", cli.run())
}
