// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd del`: stops devices and deletes them.

use super::{holders, output};
use crate::control::{block_node, Control};
use crate::daemon::record;
use crate::error::{Error, Kind, Result};
use crate::fastpath::{self, Name};
use crate::sysfs::{self, Disk};
use crate::uapi::ublk;
use std::thread;
use std::time::{Duration, Instant};

/// Remove block devices
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices, as `3` or `/dev/ubdb3`
    #[arg(value_name = "DEV", required_unless_present_any = ["number", "all"],
          value_parser = sysfs::parse_device)]
    devices: Vec<u32>,
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

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let control = Control::open()?;
    let ids = match args.all {
        true => sysfs::device_ids()?,
        false => [args.devices, args.number].concat(),
    };
    // One that cannot go does not keep the others.
    let mut failure = None;
    for id in ids {
        match del(&control, id, args.force) {
            // It went between being listed and being asked.
            Err(err) if args.all && err.kind() == Kind::NotFound => {}
            Err(err) => {
                if let Some(earlier) = failure.replace(err) {
                    output::complain("ubd", &earlier);
                }
            }
            Ok(()) => {}
        }
    }
    Ok(failure.map_or(Ok(()), Err)?)
}

fn del(control: &Control, id: u32, force: bool) -> Result<()> {
    let info = control.dev_info(id)?;
    let own = own_programs(&info);
    match force {
        true => control.stop(id)?,
        false => stop_unused(control, id)?,
    }
    own.iter().for_each(fastpath::unload_own);
    // Now, for afterwards the number may be that of another device.
    record::forget(id);
    match control.del(id) {
        // Its daemon was asked to do the same just now.
        Err(err) if err.kind() == Kind::NotFound => Ok(()),
        done => done,
    }
}

/// Stops a device that nobody uses. The driver has the last word, for not every user can be seen, and
/// one may come while we look.
fn stop_unused(control: &Control, id: u32) -> Result<()> {
    let in_use = |how: &str| {
        let node = block_node(id);
        let text =
            format!("failed to delete `{node}`: it is {how}; --force deletes it nevertheless");
        Err(Error::new(Kind::Busy, text))
    };
    let mut unseen = None;
    loop {
        let holders = holders::settled(id);
        if !holders.is_empty() {
            return in_use(&holders.join(", "));
        }
        match control.try_stop(id) {
            Err(err) if err.kind() == Kind::Busy => {
                if unseen.get_or_insert_with(Instant::now).elapsed() > holders::PATIENCE {
                    return in_use(holders::UNSEEN);
                }
                thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

/// The programs that the device has for itself: the one that is bound, and the one that it was
/// made with. Its daemon may not be there to unload them.
fn own_programs(info: &ublk::DevInfo) -> Vec<Name> {
    let id = info.dev_id;
    let bound = Disk::new(id).program().ok().flatten();
    let made_with = record::read(info)
        .and_then(|record| record.fast_path)
        .filter(|fast_path| !fast_path.settings.is_empty())
        .map(|fast_path| fastpath::own_name(&fast_path.program, id));
    let names = [bound, made_with].into_iter().flatten();
    let mut own: Vec<Name> = names
        .filter_map(|name| name.parse().ok())
        .filter(|name| fastpath::is_own(name, id))
        .collect();
    own.dedup();
    own
}
