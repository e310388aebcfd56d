// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd`: adds, removes and shows block devices.

use clap::Parser;
use std::process::ExitCode;
use ubd_bpf::cli::{init_log, output::finish, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log("ubd", cli.verbose);
    finish("ubd", cli.run())
}
