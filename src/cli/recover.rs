// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd recover`: a new daemon for a device that has lost its own.

use super::output;
use super::recovery::Recovery;
use crate::control::{block_node, Control};
use crate::daemon::record::{self, FastPathRecord, Lock, Record};
use crate::daemon::{self, FastPath, Started, Takeover};
use crate::error::{Error, Kind, Result};
use crate::sysfs;
use crate::uapi::ublk;
use std::time::Duration;

/// Start a new daemon for a block device whose own has died
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The device, as `3` or `/dev/ubdb3`
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// Serve in this process until a signal or `ubd del` ends it
    #[arg(long)]
    foreground: bool,
}

/// A daemon that has just been killed may need a moment until its last operation has ended.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let id = args.device;
    if !args.foreground {
        daemon::close_inherited();
    }
    let lock = Lock::take(id)?;
    let control = Control::open()?;
    let info = control.dev_info(id)?;
    check(&info, "recover")?;
    let record = recorded(&info, "recover")?;
    // One that was killed just now may not have let go yet.
    if info.state == ublk::S_DEV_LIVE && record.daemon.lives() {
        return Err(still_served(&record).into());
    }
    let takeover = takeover(control, lock, &record, PATIENCE)?;
    if args.foreground {
        daemon::serve(takeover, |started| {
            if let Err(err) = report(started, "recovered") {
                log::warn!("{err:#}");
            }
        })?;
        Ok(())
    } else {
        report(daemon::spawn(takeover)?, "recovered")
    }
}

pub(super) fn report(Started { id }: Started, what: &str) -> anyhow::Result<()> {
    output::line(&format!("{}: {what}", block_node(id)))
}

/// Whether the device could have another daemon at all.
pub(super) fn check(info: &ublk::DevInfo, verb: &str) -> Result<()> {
    let id = info.dev_id;
    let node = block_node(id);
    if Recovery::of(info.flags).is_none() {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "failed to {verb} `{node}`: it was not made to change its daemon; \
                 `ubd add --recovery` makes one that is, and `ubd del --force {id}` removes this one"
            ),
        ));
    }
    if info.state == ublk::S_DEV_DEAD {
        return Err(Error::new(
            Kind::NotFound,
            format!("failed to {verb} `{node}`: it is not running"),
        ));
    }
    Ok(())
}

/// The record of a device, which must have one.
pub(super) fn recorded(info: &ublk::DevInfo, verb: &str) -> Result<Record> {
    let id = info.dev_id;
    let what = || format!("failed to {verb} `{}`", block_node(id));
    let way_out = format!("`ubd del --force {id}` removes the device");
    let record = record::load(id)
        .map_err(|err| Error::new(err.kind(), format!("{}: {err:#}; {way_out}", what())))?;
    if !record.is_of(info) {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "{}: its record is of an earlier device of this number; {way_out}",
                what()
            ),
        ));
    }
    if record.spec.is_none() {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "{}: only the program that serves a `{}` device can start another one",
                what(),
                record.target
            ),
        ));
    }
    Ok(record)
}

fn still_served(record: &Record) -> Error {
    Error::new(
        Kind::Busy,
        format!(
            "failed to recover `{}`: process {} still serves it; `ubd upgrade` replaces a daemon \
             that lives",
            block_node(record.id),
            record.daemon.pid
        ),
    )
}

/// What the next daemon of a device does.
pub(super) fn takeover(
    control: Control,
    lock: Lock,
    record: &Record,
    patience: Duration,
) -> Result<Takeover> {
    let id = record.id;
    let what = || format!("failed to open what is behind `{}`", block_node(id));
    let spec = record
        .spec
        .as_ref()
        .ok_or_else(|| Error::new(Kind::Usage, what()))?;
    let target = spec
        .open()
        .map_err(|err| Error::caused_by(err.kind(), what(), err))?;
    // A resize that was broken off may have left more than is shown, which does no harm.
    let sectors = control.params(id)?.basic.dev_sectors;
    if target.geometry().size >> 9 < sectors {
        return Err(Error::new(
            Kind::Usage,
            format!(
                "`{}` has {sectors} sectors of 512 bytes, and its record says {}",
                block_node(id),
                target.geometry().size >> 9
            ),
        ));
    }
    Ok(Takeover {
        control,
        lock,
        id,
        target,
        fast_path: record.fast_path.as_ref().map(fast_path).transpose()?,
        forward: record.forward,
        patience,
    })
}

fn fast_path(record: &FastPathRecord) -> Result<FastPath> {
    let settings = record.settings.iter().map(|text| text.parse());
    Ok(FastPath {
        program: record.program.clone(),
        cookie: record.cookie,
        settings: settings.collect::<Result<_>>()?,
        stops_with_daemon: record.stops_with_daemon,
    })
}
