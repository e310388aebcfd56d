// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf`: load mapping programs and bind them to devices.

use clap::Parser;
use std::process::ExitCode;
use ubd_bpf::{cli, cli_bpf};

fn main() -> ExitCode {
    let args = cli_bpf::Cli::parse();
    cli::init_log("ubd-bpf", args.verbose);
    match args.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("ubd-bpf: {err:#}");
            ExitCode::from(err.kind().exit_code())
        }
    }
}
