// SPDX-License-Identifier: MIT OR Apache-2.0
//! `man` and `completions`: for those who package the tools.

use super::print;
use crate::error::{Context, Error, Kind, Result};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a man page
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The verb to describe [default: the program]
    verb: Option<String>,
}

/// Print completions
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Prints the man page of `C` or of one of its verbs.
pub fn man<C: CommandFactory>(args: &ManArgs) -> Result<()> {
    let mut command = C::command();
    // Gives the verbs their full names, as in `ubd-add`.
    command.build();
    if let Some(verb) = &args.verb {
        let found = command.find_subcommand(verb).cloned();
        command = found
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no verb `{verb}`")))?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .section("8")
        .render(&mut page)
        .context(|| "failed to write a man page")?;
    print(&String::from_utf8_lossy(&page))
}

/// Prints the completions of `C` for a shell.
pub fn completions<C: CommandFactory>(args: &CompletionsArgs) -> Result<()> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))
}
