// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ubd-bpf`, one file a verb.

mod apart;
mod bind;
mod list;
mod load;
mod manual;
mod show;
mod slot;
mod test;
mod unload;

use crate::cli::generate;
use anyhow::Result;
use clap::{ArgAction, Parser, Subcommand};

/// Load mapping programs into the ubd driver and bind them to devices
#[derive(Debug, Parser)]
#[command(name = "ubd-bpf", version, after_help = manual::MANUAL.after_help(), max_term_width = 100)]
pub struct Cli {
    /// Say more: the whole log of the verifier; twice for debugging
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Load(load::Args),
    List(list::Args),
    Show(show::Args),
    Unload(unload::Args),
    Bind(bind::BindArgs),
    Unbind(bind::UnbindArgs),
    Test(test::Args),
    Slot(slot::Args),
    #[command(hide = true)]
    Man(generate::ManArgs),
    #[command(hide = true)]
    Completions(generate::CompletionsArgs),
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<()> {
        match self.verb {
            Verb::Load(args) => load::run(&args),
            Verb::List(args) => list::run(&args),
            Verb::Show(args) => show::run(&args),
            Verb::Unload(args) => unload::run(&args),
            Verb::Bind(args) => bind::bind(&args),
            Verb::Unbind(args) => bind::unbind(&args),
            Verb::Test(args) => test::run(&args),
            Verb::Slot(args) => slot::run(&args),
            Verb::Man(args) => generate::man::<Cli>(&args, &manual::MANUAL),
            Verb::Completions(args) => generate::completions::<Cli>(&args),
        }
    }
}

/// Reads a number, decimal or with `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "it is not a number of 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_have_64_bits() {
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(number("0xffffffffffffffff"), Ok(u64::MAX));
        for text in ["", "-1", "0x", "x", "18446744073709551616"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
