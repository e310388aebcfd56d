// SPDX-License-Identifier: MIT OR Apache-2.0
//! `man` and `completions`: for those who package the tools.

use super::output;
use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::roff::{bold, roman, Roff};
use std::io;

/// Print a man page
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The verb to describe [default: the program]
    verb: Vec<String>,
}

/// Print completions
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// What a man page says that the help does not.
#[derive(Debug)]
pub struct Manual {
    /// Exit statuses and what they mean.
    pub exit_status: &'static [(&'static str, &'static str)],
    /// Variables.
    pub environment: &'static [(&'static str, &'static str)],
    /// Paths and what is there.
    pub files: &'static [(&'static str, &'static str)],
    /// The verb that it is about, what is done, and the command.
    pub examples: &'static [(&'static str, &'static str, &'static str)],
    /// Other pages.
    pub see_also: &'static str,
}

impl Manual {
    /// What the help of the program ends with.
    pub fn after_help(&self) -> String {
        let section = |title: &str, entries: &[(&str, &str)]| {
            let lines = entries
                .iter()
                .map(|(what, text)| format!("\n  {what:<7}  {text}"));
            format!("{title}:{}", lines.collect::<String>())
        };
        let exit_status = section("Exit status", self.exit_status);
        exit_status + "\n\n" + &section("Environment", self.environment)
    }
}

/// Prints the man page of `C` or of one of its verbs.
pub fn man<C: CommandFactory>(args: &ManArgs, manual: &Manual) -> Result<()> {
    let mut command = C::command();
    // Gives the verbs their full names, as in `ubd-add`.
    command.build();
    for verb in &args.verb {
        let found = command.find_subcommand(verb).cloned();
        command = found.with_context(|| format!("there is no verb `{verb}`"))?;
    }
    let mut page = Vec::new();
    let source = concat!("ubd ", env!("CARGO_PKG_VERSION"));
    let man = clap_mangen::Man::new(command).section("8").source(source);
    render(&man, args.verb.first(), manual, &mut page).context("failed to write a man page")?;
    output::text(&String::from_utf8_lossy(&page))
}

fn render(
    man: &clap_mangen::Man,
    verb: Option<&String>,
    manual: &Manual,
    page: &mut Vec<u8>,
) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if verb.is_none() {
        man.render_subcommands_section(page)?;
    }
    let mut more = Roff::new();
    let mut section = |title: &str, entries: &[(&str, &str)]| {
        more.control("SH", [title]);
        for (what, text) in entries {
            more.control("TP", []);
            more.text([bold(*what)]).text([roman(*text)]);
        }
    };
    section("EXIT STATUS", manual.exit_status);
    section("ENVIRONMENT", manual.environment);
    section("FILES", manual.files);
    let examples = manual.examples.iter();
    let examples: Vec<_> = examples
        .filter(|(about, ..)| verb.is_none_or(|verb| verb == about))
        .map(|(_, what, command)| (*command, *what))
        .collect();
    if !examples.is_empty() {
        section("EXAMPLES", &examples);
    }
    more.control("SH", ["SEE ALSO"])
        .text([roman(manual.see_also)]);
    more.to_writer(page)
}

/// Prints the completions of `C` for a shell.
pub fn completions<C: CommandFactory>(args: &CompletionsArgs) -> Result<()> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::text(&String::from_utf8_lossy(&script))
}
