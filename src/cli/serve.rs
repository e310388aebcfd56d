// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd serve`: one daemon for many devices.

use super::{add, output, words};
use crate::control::block_node;
use crate::daemon::{self, Job};
use crate::limited;
use anyhow::{bail, Context, Result};
use clap::Parser;
use std::path::PathBuf;

/// Add the block devices of a list, and serve all of them in this process
///
/// Each line of FILE has the arguments of an `ubd add`; empty lines and what follows a `#` mean
/// nothing. If one device cannot be added, none is. Each can be removed with `ubd del`; a signal
/// removes all.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The list; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// More than the lines of all devices that the driver can have.
const MAX_BYTES: u64 = 16 << 20;

/// A line of the list.
#[derive(Debug, Parser)]
#[command(name = "ubd add", no_binary_name = true)]
struct Line {
    #[command(flatten)]
    args: add::Args,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let name = args.file.display();
    let text = match args.file.to_str() {
        Some("-") => limited::read_all(std::io::stdin(), "-", MAX_BYTES),
        _ => limited::read(&args.file, MAX_BYTES),
    }?;
    let text = String::from_utf8(text).with_context(|| format!("failed to read `{name}`"))?;
    let mut jobs = Vec::new();
    let mut labels = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let in_line = || format!("line {number} of `{name}`");
        let words = words::split(line).with_context(in_line)?;
        if words.is_empty() {
            continue;
        }
        let (config, label) = parse(&words)
            .and_then(|args| args.config())
            .with_context(in_line)?;
        jobs.push(Job::from(config));
        labels.push(label);
    }
    if jobs.is_empty() {
        bail!("`{name}` has no devices");
    }
    daemon::serve_all(jobs, |started| {
        for (device, label) in started.iter().zip(&labels) {
            let line = format!("{}: {label}", block_node(device.id));
            // Devices that run are not taken away for want of a reader.
            if let Err(err) = output::line(&line) {
                log::warn!("{err:#}");
                break;
            }
        }
    })?;
    Ok(())
}

fn parse(words: &[String]) -> Result<add::Args> {
    let args = match Line::try_parse_from(words) {
        Ok(line) => line.args,
        Err(err) => {
            let text = err.render().to_string();
            // What follows is usage, of a command that nobody has typed.
            let first = text.lines().next().unwrap_or_default();
            bail!("{}", first.strip_prefix("error: ").unwrap_or(first));
        }
    };
    if args.stands_alone() {
        bail!("--foreground and --show mean nothing to a device among others");
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(line: &str) -> String {
        format!("{:#}", parse(&words::split(line).unwrap()).unwrap_err())
    }

    #[test]
    fn a_line_is_what_ubd_add_takes() {
        let line = words::split("loop -f 'a b' --bpf-fastpath --recovery -q 2").unwrap();
        parse(&line).unwrap();
        assert!(says("tape").contains("invalid value 'tape'"));
        assert!(says("null --show").contains("among others"));
        assert!(says("null -t loop").contains("cannot be used with"));
    }
}
