// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf list`

use crate::cli::output;
use crate::cli::table::{self, Align};
use crate::control::block_node;
use crate::fastpath::{self, Program};
use crate::uapi::ubd;
use anyhow::Result;
use serde_json::{json, Value};

/// List the loaded programs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let programs = fastpath::programs()?;
    if args.json {
        return output::document("programs", programs.iter().map(to_json).collect());
    }
    const COLUMNS: [(&str, Align); 5] = [
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("BAD", Align::Right),
        ("PINNED", Align::Left),
        ("DEVICES", Align::Left),
    ];
    let rows: Vec<_> = programs
        .iter()
        .map(|program| {
            vec![
                program.driver.name.clone(),
                state(program).into(),
                program.driver.bad_verdicts.to_string(),
                if program.pins.is_some() { "yes" } else { "no" }.into(),
                devices(program),
            ]
        })
        .collect();
    output::text(&table::aligned(&COLUMNS, &rows, true))
}

/// `live` or `ejected`.
pub fn state(program: &Program) -> &'static str {
    if program.driver.ejected {
        "ejected"
    } else {
        "live"
    }
}

/// The nodes of the devices that ask this program. One that is not started has none yet.
pub fn devices(program: &Program) -> String {
    let mut nodes: Vec<_> = program.devices.iter().map(|&id| block_node(id)).collect();
    let unseen = (program.driver.nr_bound as usize).saturating_sub(nodes.len());
    if unseen > 0 {
        nodes.push(format!("{unseen} not started"));
    }
    nodes.join(", ")
}

/// The names of the flags that are set.
pub fn flags(program: &Program) -> Vec<&'static str> {
    [
        (ubd::OPS_WANT_DISCARD, "want_discard"),
        (ubd::OPS_DISCARD_WRITES, "discard_writes"),
        (ubd::OPS_TRACKED, "tracked"),
    ]
    .into_iter()
    .filter(|(bit, _)| program.driver.flags & bit != 0)
    .map(|(_, name)| name)
    .collect()
}

pub fn to_json(program: &Program) -> Value {
    let driver = &program.driver;
    json!({
        "name": driver.name,
        "state": state(program),
        "reason": (!driver.reason.is_empty()).then_some(&driver.reason),
        "bad_verdicts": driver.bad_verdicts,
        "flags": flags(program),
        "nr_bound": driver.nr_bound,
        "devices": program.devices.iter().map(|&id| block_node(id)).collect::<Vec<_>>(),
        "pinned": program.pins,
    })
}
