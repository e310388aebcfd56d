// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd add`: a new device and the daemon that serves it.

use super::output;
use crate::control::{block_node, AddRequest, Control};
use crate::daemon::{self, Config, FastPath, Started};
use crate::target::{check_block_size, Backing, Loop, Null, OpenOptions, Target};
use crate::uapi::ublk;
use crate::{cycles, fastpath, size};
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use std::path::PathBuf;
use std::sync::Arc;

const NULL_SIZE: u64 = 250 << 30;
const LOOP: &str = "Loop target";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TargetKind {
    /// Reads zeroes, forgets writes
    Null,
    /// Shows a file or block device
    Loop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Add a block device
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the device is
    #[arg(value_name = "TARGET", required_unless_present = "kind")]
    target: Option<TargetKind>,
    /// The same as TARGET
    #[arg(
        short = 't',
        long = "type",
        value_name = "TARGET",
        conflicts_with = "target"
    )]
    kind: Option<TargetKind>,
    /// Make it /dev/ubdbN [default: the first free number]
    #[arg(short, long, value_name = "N")]
    number: Option<u32>,
    /// Queues, each with a thread of its own
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(ublk::MAX_NR_QUEUES)))]
    queues: u16,
    /// Requests that a queue serves at once
    #[arg(short, long, value_name = "N", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(ublk::MAX_QUEUE_DEPTH)))]
    depth: u16,
    /// Largest request, a multiple of 4KiB up to 32MiB
    #[arg(long, value_name = "SIZE", default_value = "512KiB", value_parser = size::parse)]
    max_io_size: u64,
    /// Logical block: 512, 1024, 2048 or 4096 [default: the smallest that fits]
    #[arg(short = 'b', long, value_name = "SIZE", value_parser = size::parse)]
    sector_size: Option<u64>,
    /// Let a BPF program map I/O inside the kernel: one that is loaded, or `linear` or `concat`,
    /// which ship with ubd [without NAME: linear]
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true,
          default_missing_value = "linear")]
    bpf_fastpath: Option<String>,
    /// Serve in this process until a signal or `ubd del` ends it
    #[arg(long)]
    foreground: bool,
    /// Print only the name of the block device
    #[arg(long)]
    show: bool,

    /// Size of the device [default: 250GiB]
    #[arg(short, long, value_parser = size::parse, help_heading = "Null target")]
    size: Option<u64>,

    /// The file or block device to show
    #[arg(short, long, value_name = "FILE", help_heading = LOOP)]
    file: Option<PathBuf>,
    /// Start at this byte of FILE
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = LOOP)]
    offset: Option<u64>,
    /// Show at most this much of FILE
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = LOOP)]
    sizelimit: Option<u64>,
    /// Refuse writes
    #[arg(short, long, help_heading = LOOP)]
    read_only: bool,
    /// Bypass the page cache of FILE [default: off, on for block devices]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "on", help_heading = LOOP)]
    direct_io: Option<Switch>,
}

pub(super) fn run(args: Args) -> Result<()> {
    let max_io_bytes = check_max_io(args.max_io_size)?;
    if !args.foreground {
        daemon::close_inherited();
    }
    let target = args.open_target()?;
    let control = Control::open()?;
    let label = describe(&*target);
    let fast_path = match args.bpf_fastpath {
        Some(program) => {
            fastpath::ensure_loaded(&program)
                .with_context(|| format!("failed to prepare --bpf-fastpath={program}"))?;
            Some(FastPath { program, cookie: 0 })
        }
        None => None,
    };
    let add = AddRequest {
        id: args.number,
        queues: args.queues,
        depth: args.depth,
        max_io_bytes,
    };
    let config = Config {
        control,
        add,
        target,
        fast_path,
    };
    let report = |Started { id }| match args.show {
        true => output::line(&block_node(id)),
        false => output::line(&format!("{}: {label}", block_node(id))),
    };
    if args.foreground {
        daemon::serve(config, |started| {
            // A device that runs is not taken away for want of a reader.
            if let Err(err) = report(started) {
                log::warn!("{err:#}");
            }
        })?;
        Ok(())
    } else {
        report(daemon::spawn(config)?)
    }
}

impl Args {
    fn open_target(&self) -> Result<Arc<dyn Target>> {
        match self.target.or(self.kind) {
            Some(TargetKind::Loop) => self.open_loop(),
            _ => self.open_null(),
        }
    }

    fn open_null(&self) -> Result<Arc<dyn Target>> {
        let of_loop = [
            ("--file", self.file.is_some()),
            ("--offset", self.offset.is_some()),
            ("--sizelimit", self.sizelimit.is_some()),
            ("--read-only", self.read_only),
            ("--direct-io", self.direct_io.is_some()),
        ];
        refuse("null", &of_loop)?;
        let block = check_block_size(self.sector_size.unwrap_or(512))?;
        Ok(Arc::new(Null::new(self.size.unwrap_or(NULL_SIZE), block)?))
    }

    fn open_loop(&self) -> Result<Arc<dyn Target>> {
        refuse("loop", &[("--size", self.size.is_some())])?;
        let Some(path) = self.file.clone() else {
            bail!("a loop device shows a file; give one with -f FILE");
        };
        if self.bpf_fastpath.is_some() {
            cycles::check(&path)?;
        }
        Ok(Arc::new(Loop::new(Backing::open(&OpenOptions {
            path,
            offset: self.offset.unwrap_or(0),
            size_limit: self.sizelimit,
            block: self.sector_size,
            read_only: self.read_only,
            direct: self.direct_io.map(|switch| switch == Switch::On),
        })?)))
    }
}

fn refuse(target: &str, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => {
            bail!("{option} means nothing to a {target} device; see `ubd add --help`")
        }
    }
}

fn check_max_io(bytes: u64) -> Result<u32> {
    match u32::try_from(bytes) {
        Ok(size @ 4096..=ublk::MAX_IO_BUF_BYTES) if size % 4096 == 0 => Ok(size),
        _ => bail!("a largest request of {bytes} bytes is not a multiple of 4KiB up to 32MiB"),
    }
}

fn describe(target: &dyn Target) -> String {
    let size = size::human(target.geometry().size);
    match target.backing() {
        Some(backing) => format!("{} on {backing}, {size}", target.name()),
        None => format!("{}, {size}", target.name()),
    }
}
