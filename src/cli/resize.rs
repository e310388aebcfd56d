// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd resize`: a device of another size, while it is in use.

use super::recover::recorded;
use super::{holders, output};
use crate::control::{block_node, Control};
use crate::daemon::record::{self, FastPathRecord, Lock, Record};
use crate::error::{Error, Kind, Result};
use crate::fastpath::Own;
use crate::target::{Spec, Target};
use crate::{size, sysfs};

/// Change the size of a block device, while it is in use
///
/// A loop device ends where its window of the file ends, a concatenation with the last file; a
/// stripe changes by whole rows. The files themselves are never changed: make them larger before,
/// and smaller after this.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The device, as `3` or `/dev/ubdb3`
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// The new size, or `max`: all that is there by now
    #[arg(value_parser = parse_size)]
    size: NewSize,
    /// Shrink it even while it is mounted or open
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewSize {
    Bytes(u64),
    Max,
}

fn parse_size(text: &str) -> Result<NewSize> {
    match text {
        "max" => Ok(NewSize::Max),
        _ => size::parse(text).map(NewSize::Bytes),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let id = args.device;
    let _lock = Lock::take(id)?;
    let control = Control::open()?;
    let info = control.dev_info(id)?;
    let old = recorded(&info, "resize")?;
    let new = resized(&old, args.size)?;
    let is = control.params(id)?.basic.dev_sectors;
    if new.geometry().size >> 9 < is && !args.force {
        refuse_in_use(id)?;
    }
    apply(&control, &old, &*new, is)?;
    let text = size::human(new.geometry().size);
    output::line(&format!("{}: {text}", block_node(id)))
}

/// The target of the new size.
fn resized(record: &Record, want: NewSize) -> Result<std::sync::Arc<dyn Target>> {
    let what = |err: Error| {
        let text = format!("failed to resize `{}`", block_node(record.id));
        Error::caused_by(err.kind(), text, err)
    };
    let spec = record.spec.as_ref().ok_or_else(|| {
        what(Error::new(
            Kind::Usage,
            "its record does not say what it is",
        ))
    })?;
    let wanted = match want {
        NewSize::Bytes(bytes) => Some(bytes),
        NewSize::Max => None,
    };
    let room = spec.room().map_err(what)?;
    spec.resized(wanted, &room)
        .and_then(|spec: Spec| spec.open())
        .map_err(what)
}

/// What is lost by shrinking is lost to somebody.
fn refuse_in_use(id: u32) -> Result<()> {
    let holders = holders::settled(id);
    if holders.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Busy,
        format!(
            "failed to shrink `{}`: it is {}; --force shrinks it nevertheless",
            block_node(id),
            holders.join(", ")
        ),
    ))
}

/// Changes the device. The record is always of a size that the files have: whatever a failure
/// leaves, the device can go on.
fn apply(control: &Control, old: &Record, new: &dyn Target, is: u64) -> Result<()> {
    let id = old.id;
    let sectors = new.geometry().size >> 9;
    let record = Record {
        spec: new.spec(),
        ..old.clone()
    };
    if sectors < is {
        control.update_size(id, sectors)?;
        set_windows(control, old.fast_path.as_ref(), id, new)?;
        return record::rewrite(&record);
    }
    set_windows(control, old.fast_path.as_ref(), id, new)?;
    record::rewrite(&record)?;
    control.update_size(id, sectors)
}

/// Tells the driver, and a program that has the sizes of its slots, how much of the files is shown.
fn set_windows(
    control: &Control,
    fast_path: Option<&FastPathRecord>,
    id: u32,
    new: &dyn Target,
) -> Result<()> {
    let there = control.slots(id)?;
    for slot in new.slots() {
        let Some(info) = there.iter().find(|it| Some(it.slot) == slot.number) else {
            continue;
        };
        if info.nr_sectors != slot.sectors {
            control.resize_slot(id, info.slot, slot.sectors)?;
        }
    }
    match fast_path {
        Some(own) if !own.settings.is_empty() => {
            let settings = new.mapping().settings;
            let settings: Result<Vec<_>> = settings.iter().map(|text| text.parse()).collect();
            Own::update(&own.program, id, &settings?)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_max() {
        assert_eq!(parse_size("max").unwrap(), NewSize::Max);
        assert_eq!(parse_size("1M").unwrap(), NewSize::Bytes(1 << 20));
        assert!(parse_size("most").is_err());
    }
}
