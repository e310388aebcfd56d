// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd del`: stops devices and deletes them.

use super::holders;
use crate::control::{block_node, Control};
use crate::daemon::record;
use crate::error::{Error, Kind, Result};
use crate::sysfs;

/// Remove block devices
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices, as `3` or `/dev/ubdb3`
    #[arg(value_name = "DEV", required_unless_present_any = ["number", "all"])]
    devices: Vec<String>,
    /// The same as DEV
    #[arg(short, long, value_name = "N")]
    number: Vec<u32>,
    /// Remove all devices
    #[arg(short, long, conflicts_with_all = ["devices", "number"])]
    all: bool,
    /// Remove even what is mounted or open: its I/O fails from then on
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let mut ids = args.number;
    for device in &args.devices {
        ids.push(sysfs::parse_device(device)?);
    }
    let control = Control::open()?;
    if args.all {
        ids = sysfs::device_ids()?;
    }
    // One that cannot go does not keep the others.
    let failures: Vec<_> = ids
        .into_iter()
        .filter_map(|id| del(&control, id, args.force).err())
        .collect();
    let mut failures = failures.into_iter().rev();
    let Some(last) = failures.next() else {
        return Ok(());
    };
    for failure in failures.rev() {
        eprintln!("ubd: {failure:#}");
    }
    Err(last)
}

fn del(control: &Control, id: u32, force: bool) -> Result<()> {
    control.dev_info(id)?;
    if !force {
        let holders = holders::settled(id);
        if !holders.is_empty() {
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "failed to delete `{}`: it is {}; --force deletes it nevertheless",
                    block_node(id),
                    holders.join(", ")
                ),
            ));
        }
    }
    control.stop(id)?;
    match control.del(id) {
        // Its daemon was asked to do the same just now.
        Err(err) if err.kind() == Kind::NotFound => {}
        done => done?,
    }
    record::forget(id);
    Ok(())
}
