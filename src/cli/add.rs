// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd add`: a new device and the daemon that serves it.

use super::output;
use super::recovery::{OnDeath, Recovery};
use crate::control::{block_node, AddRequest, Control};
use crate::daemon::{self, record, Config, FastPath, Started};
use crate::error::{Error, Kind};
use crate::target::{
    check_block_size, is_read_only, Backing, Mapping, Members, Null, OpenOptions, Target,
    TargetKind,
};
use crate::uapi::{ubd, ublk};
use crate::{cycles, fastpath, size};
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use std::path::PathBuf;
use std::sync::Arc;

const NULL_SIZE: u64 = 250 << 30;
const CHUNK: u64 = 64 << 10;
const FILES: &str = "Loop, concat and stripe targets";
const LOOP: &str = "Loop target";

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
    /// Let a BPF program map I/O inside the kernel: one that is loaded [without NAME: the
    /// program of the target, which ships with ubd]
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    bpf_fastpath: Option<Option<String>>,
    /// Let the kernel do the I/O that the daemon is asked for: no data passes through the daemon
    #[arg(long, help_heading = FILES)]
    forward: bool,
    /// Let another daemon take over when this one dies or is to be replaced (`ubd recover`, `ubd
    /// upgrade`); until then, I/O that needs a daemon does this [without POLICY: wait]
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true,
          default_missing_value = "wait")]
    recovery: Option<Recovery>,
    /// What mapped I/O does when the daemon dies [default: continue]
    #[arg(long, value_name = "POLICY", requires = "bpf_fastpath")]
    on_daemon_death: Option<OnDeath>,
    /// Let the daemon copy data, instead of the driver
    #[arg(long, conflicts_with = "zero_copy")]
    user_copy: bool,
    /// Copy no data: files are read and written from the pages of whoever uses the device
    #[arg(long, conflicts_with = "forward")]
    zero_copy: bool,
    /// Serve in this process until a signal or `ubd del` ends it
    #[arg(long)]
    foreground: bool,
    /// Print only the name of the block device
    #[arg(long)]
    show: bool,

    /// Size of the device [default: 250GiB]
    #[arg(short, long, value_parser = size::parse, help_heading = "Null target")]
    size: Option<u64>,

    /// The file or block device to show; again for each further one of concat and stripe
    #[arg(short, long, value_name = "FILE", help_heading = FILES)]
    file: Vec<PathBuf>,
    /// Refuse writes
    #[arg(short, long, help_heading = FILES)]
    read_only: bool,
    /// Bypass the page cache of files [default: off, on for block devices]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "on", help_heading = FILES)]
    direct_io: Option<Switch>,

    /// Start at this byte of FILE
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = LOOP)]
    offset: Option<u64>,
    /// Show at most this much of FILE
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = LOOP)]
    sizelimit: Option<u64>,

    /// What one file gets before it is the next one's turn: a power of two from 4KiB
    /// [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, help_heading = "Stripe target")]
    chunk: Option<u64>,
}

pub(super) fn run(args: Args) -> Result<()> {
    if !args.foreground {
        daemon::close_inherited();
    }
    let (config, label) = args.config()?;
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
    /// What the arguments ask for, and a line about it for people.
    pub(super) fn config(&self) -> Result<(Config, String)> {
        let max_io_bytes = check_max_io(self.max_io_size)?;
        let target = self.open_target()?;
        let control = Control::open()?;
        if self.forward && control.features()?.features & ubd::F_FORWARD == 0 {
            return Err(Error::new(
                Kind::Unsupported,
                "the loaded ubd driver has no FORWARD, which --forward needs; see `ubd features`",
            )
            .into());
        }
        let flags = self.flags(&control, &*target)?;
        let label = describe(&*target);
        let fast_path = match &self.bpf_fastpath {
            Some(name) => Some(FastPath {
                stops_with_daemon: self.on_daemon_death == Some(OnDeath::Stop),
                ..fast_path(name.as_deref(), target.mapping())?
            }),
            None => None,
        };
        let add = AddRequest {
            id: self.number,
            queues: self.queues,
            depth: self.depth,
            max_io_bytes,
            flags,
            token: record::token(),
            ..AddRequest::default()
        };
        let config = Config {
            control,
            add,
            target,
            fast_path,
            forward: self.forward,
        };
        Ok((config, label))
    }

    /// Whether an option is given that means nothing to a device among others.
    pub(super) fn stands_alone(&self) -> bool {
        self.foreground || self.show
    }

    /// The features that the device needs, and those that it may as well have.
    fn flags(&self, control: &Control, target: &dyn Target) -> Result<u64> {
        let mut welcome = ublk::F_UPDATE_SIZE;
        let mut needed = 0;
        if let Some(recovery) = self.recovery {
            needed |= recovery.flags();
            welcome |= ublk::F_QUIESCE;
            if let Some(name) = unwritable(target) {
                bail!("a device on `{name}` cannot be recovered: its name is not UTF-8");
            }
        }
        if self.user_copy {
            needed |= ublk::F_USER_COPY;
        }
        if self.forward {
            // Or the driver would copy data for a daemon that does not want it.
            welcome |= ublk::F_USER_COPY;
        }
        if self.zero_copy {
            if !target.is_blind() {
                bail!(
                    "--zero-copy means nothing to a {} device, which makes its data itself",
                    target.name()
                );
            }
            needed |= ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG;
        }
        if !is_admin() {
            // A device of the user's own; with it goes the right to all that reaches further.
            let roots = [
                ("--bpf-fastpath", self.bpf_fastpath.is_some()),
                ("--recovery", self.recovery.is_some()),
                ("--forward", self.forward),
                ("--user-copy", self.user_copy),
                ("--zero-copy", self.zero_copy),
            ];
            if let Some((option, _)) = roots.iter().find(|(_, given)| *given) {
                let text = format!("{option} takes root");
                return Err(Error::new(Kind::Permission, text).into());
            }
            needed |= ublk::F_UNPRIVILEGED_DEV;
        }
        Ok(needed | welcome & control.ublk_features()?)
    }

    fn open_target(&self) -> Result<Arc<dyn Target>> {
        let kind = self.target.or(self.kind).unwrap_or(TargetKind::Null);
        self.refuse_foreign(kind)?;
        if kind == TargetKind::Null {
            let block = check_block_size(self.sector_size.unwrap_or(512))?;
            return Ok(Arc::new(Null::new(self.size.unwrap_or(NULL_SIZE), block)?));
        }
        let members = self.open_files()?;
        Ok(Arc::new(match kind {
            TargetKind::Concat => Members::concat(members)?,
            TargetKind::Stripe => Members::stripe(members, self.chunk.unwrap_or(CHUNK))?,
            _ => Members::one(one(members)?),
        }))
    }

    /// Refuses options that are another target's.
    fn refuse_foreign(&self, kind: TargetKind) -> Result<()> {
        use TargetKind::{Concat, Loop, Null, Stripe};
        let files = &[Loop, Concat, Stripe][..];
        let options = [
            ("--size", self.size.is_some(), &[Null][..]),
            ("--file", !self.file.is_empty(), files),
            ("--read-only", self.read_only, files),
            ("--forward", self.forward, files),
            ("--direct-io", self.direct_io.is_some(), files),
            ("--offset", self.offset.is_some(), &[Loop]),
            ("--sizelimit", self.sizelimit.is_some(), &[Loop]),
            ("--chunk", self.chunk.is_some(), &[Stripe]),
        ];
        let foreign = |(_, given, of): &&(_, bool, &[TargetKind])| *given && !of.contains(&kind);
        match options.iter().find(foreign) {
            None => Ok(()),
            Some((option, ..)) => bail!(
                "{option} means nothing to a {} device; see `ubd add --help`",
                kind.name()
            ),
        }
    }

    fn open_files(&self) -> Result<Vec<Backing>> {
        let mut read_only = self.read_only;
        if self.file.len() > 1 {
            // One that takes no writes leaves a device with holes for writes: no device at all.
            if let Some(path) = self.file.iter().find(|path| is_read_only(path)) {
                if !read_only {
                    log::warn!("the device is read-only, for `{}` is", path.display());
                }
                read_only = true;
            }
        }
        let open = |path: &PathBuf| {
            if self.bpf_fastpath.is_some() || self.forward {
                cycles::check(path)?;
            }
            Ok(Backing::open(&OpenOptions {
                path: path.clone(),
                offset: self.offset.unwrap_or(0),
                size_limit: self.sizelimit,
                block: self.sector_size,
                read_only,
                direct: self.direct_io.map(|switch| switch == Switch::On),
            })?)
        };
        self.file.iter().map(open).collect()
    }
}

/// The program to bind: `name`, or the one of the target.
fn fast_path(name: Option<&str>, mapping: Mapping) -> Result<FastPath> {
    let program = name.unwrap_or(mapping.program).to_owned();
    let settings = match name {
        None => mapping.settings.iter().map(|text| text.parse()).collect(),
        Some(_) => Ok(Vec::new()),
    }?;
    // With settings, the device gets one of its own.
    if settings.is_empty() {
        fastpath::ensure_loaded(&program)
            .with_context(|| format!("failed to prepare --bpf-fastpath={program}"))?;
    }
    Ok(FastPath {
        program,
        cookie: mapping.cookie,
        settings,
        ..FastPath::default()
    })
}

/// The one file of a loop device.
fn one(mut members: Vec<Backing>) -> Result<Backing> {
    match (members.pop(), members.len()) {
        (Some(backing), 0) => Ok(backing),
        (None, _) => bail!("a loop device shows a file; give one with -f FILE"),
        _ => bail!("a loop device shows one file; see `concat` and `stripe` for several"),
    }
}

fn check_max_io(bytes: u64) -> Result<u32> {
    match u32::try_from(bytes) {
        Ok(size @ 4096..=ublk::MAX_IO_BUF_BYTES) if size % 4096 == 0 => Ok(size),
        _ => bail!("a largest request of {bytes} bytes is not a multiple of 4KiB up to 32MiB"),
    }
}

/// The name of a file that cannot be recorded.
fn unwritable(target: &dyn Target) -> Option<String> {
    let spec = target.spec()?;
    let member = spec.members.iter().find(|it| it.path.to_str().is_none())?;
    Some(member.path.display().to_string())
}

/// Whether the caller may do what root does with block devices.
fn is_admin() -> bool {
    const CAP_SYS_ADMIN: u64 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Without /proc it is the driver that says no.
    effective.is_none_or(|mask| mask >> CAP_SYS_ADMIN & 1 == 1)
}

pub(super) fn describe(target: &dyn Target) -> String {
    let size = size::human(target.geometry().size);
    match target.members().as_slice() {
        [] => format!("{}, {size}", target.name()),
        members => format!("{} on {}, {size}", target.name(), members.join(" and ")),
    }
}
