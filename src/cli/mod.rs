// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ubd`, one file a verb.

mod add;
mod del;
mod features;
pub mod generate;
mod holders;
mod list;
mod manual;
pub mod output;
mod recover;
mod recovery;
mod resize;
mod serve;
mod stats;
pub(crate) mod table;
mod upgrade;
mod words;

use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};
use std::io::Write;

/// Block devices served from userspace, with mapped I/O staying in the kernel
#[derive(Debug, Parser)]
#[command(name = "ubd", version, after_help = manual::MANUAL.after_help(), max_term_width = 100)]
pub struct Cli {
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(add::Args),
    Del(del::Args),
    Recover(recover::Args),
    Upgrade(upgrade::Args),
    Resize(resize::Args),
    Serve(serve::Args),
    List(list::Args),
    Stats(stats::Args),
    Features(features::Args),
    #[command(hide = true)]
    Man(generate::ManArgs),
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<()> {
        match self.verb {
            Verb::Add(args) => add::run(args),
            Verb::Del(args) => del::run(args),
            Verb::Recover(args) => recover::run(&args),
            Verb::Upgrade(args) => upgrade::run(&args),
            Verb::Resize(args) => resize::run(&args),
            Verb::Serve(args) => serve::run(&args),
            Verb::List(args) => list::run(&args),
            Verb::Stats(args) => stats::run(&args),
            Verb::Features(args) => features::run(&args),
            Verb::Man(args) => generate::man::<Cli>(&args, &manual::MANUAL),
            Verb::Completions(args) => generate::completions::<Cli>(&args),
        }
    }
}

/// Sends log messages to stderr, as `verbose` or `UBD_LOG` ask for.
pub fn init_log(program: &'static str, verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("UBD_LOG", level))
        .format(move |out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "{program}: {level}: {}", record.args())
        })
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
