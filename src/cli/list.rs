// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd list`: the devices there are.

use super::output;
use super::recovery::Recovery;
use super::table::{self, Align};
use crate::control::{block_node, Control};
use crate::daemon::record;
use crate::error::{Kind, Result};
use crate::size;
use crate::sysfs::{self, Disk};
use crate::uapi::ublk;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

/// List block devices
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices, as `3` or `/dev/ubdb3` [default: all]
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    devices: Vec<u32>,
    /// The same as DEV
    #[arg(short, long, value_name = "N")]
    number: Vec<u32>,
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
    /// Columns to print
    #[arg(
        short,
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        ignore_case = true
    )]
    output: Vec<Column>,
    /// Leave out the headings
    #[arg(long)]
    noheadings: bool,
    /// Do not align the columns; blanks in a cell become \x20
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    Name,
    State,
    Size,
    Ro,
    Target,
    Backing,
    Program,
    Queues,
    Depth,
    Pid,
}

/// A device, as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    id: u32,
    name: String,
    state: &'static str,
    /// Bytes.
    size: u64,
    read_only: bool,
    target: Option<String>,
    /// All files and devices behind it, in one text.
    backing: Option<String>,
    /// The same one by one.
    members: Vec<String>,
    program: Option<String>,
    queues: u16,
    depth: u16,
    pid: Option<i32>,
    /// What declined I/O does while there is no daemon; none: there will be no other.
    recovery: Option<&'static str>,
    /// What mapped I/O does then, where a program is bound.
    on_daemon_death: Option<&'static str>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let asked = [&args.devices[..], &args.number].concat();
    let control = Control::open()?;
    let ids = if asked.is_empty() {
        sysfs::device_ids()?
    } else {
        asked.clone()
    };
    let mut rows = Vec::new();
    for id in ids {
        match row(&control, id) {
            // It went between being listed and being asked.
            Err(err) if err.kind() == Kind::NotFound && asked.is_empty() => {}
            row => rows.push(row?),
        }
    }
    if args.json {
        return output::document("devices", json!(rows));
    }
    let columns = match args.output.as_slice() {
        [] => Column::value_variants(),
        chosen => chosen,
    };
    let headings: Vec<_> = columns.iter().map(|column| column.heading()).collect();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| column.cell(row)).collect())
        .collect();
    let layout = if args.raw { table::raw } else { table::aligned };
    output::text(&layout(&headings, &cells, !args.noheadings))
}

fn row(control: &Control, id: u32) -> Result<Row> {
    let info = control.dev_info(id)?;
    let basic = control.params(id)?.basic;
    let record = record::read(&info);
    let stops = record
        .as_ref()
        .and_then(|record| record.fast_path.as_ref())
        .map(|fast_path| fast_path.stops_with_daemon);
    let (target, members) = match record {
        Some(record) => (Some(record.target), record.members),
        None => (None, Vec::new()),
    };
    Ok(Row {
        id,
        name: block_node(id),
        state: state(info.state),
        size: basic.dev_sectors << 9,
        read_only: basic.attrs & ublk::ATTR_READ_ONLY != 0,
        target,
        backing: (!members.is_empty()).then(|| members.join(", ")),
        members,
        program: Disk::new(id).program().ok().flatten(),
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        pid: (info.ublksrv_pid > 0).then_some(info.ublksrv_pid),
        recovery: Recovery::of(info.flags).map(Recovery::name),
        on_daemon_death: stops.map(|stops| if stops { "stop" } else { "continue" }),
    })
}

fn state(state: u16) -> &'static str {
    match state {
        ublk::S_DEV_DEAD => "dead",
        ublk::S_DEV_LIVE => "live",
        ublk::S_DEV_QUIESCED => "quiesced",
        ublk::S_DEV_FAIL_IO => "fail_io",
        _ => "unknown",
    }
}

impl Column {
    fn heading(self) -> (&'static str, Align) {
        match self {
            Column::Name => ("NAME", Align::Left),
            Column::State => ("STATE", Align::Left),
            Column::Size => ("SIZE", Align::Right),
            Column::Ro => ("RO", Align::Right),
            Column::Target => ("TARGET", Align::Left),
            Column::Backing => ("BACKING", Align::Left),
            Column::Program => ("PROGRAM", Align::Left),
            Column::Queues => ("QUEUES", Align::Right),
            Column::Depth => ("DEPTH", Align::Right),
            Column::Pid => ("PID", Align::Right),
        }
    }

    fn cell(self, row: &Row) -> String {
        match self {
            Column::Name => row.name.clone(),
            Column::State => row.state.to_owned(),
            Column::Size => size::human(row.size),
            Column::Ro => u8::from(row.read_only).to_string(),
            Column::Target => row.target.clone().unwrap_or_default(),
            Column::Backing => row.backing.clone().unwrap_or_default(),
            Column::Program => row.program.clone().unwrap_or_default(),
            Column::Queues => row.queues.to_string(),
            Column::Depth => row.depth.to_string(),
            Column::Pid => row.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        }
    }
}
