// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd-bpf slot`: the files and disks that a device's program may map to.

use crate::cli::output;
use crate::cli::table::{self, Align};
use crate::control::{self, block_node, Control};
use crate::error::Context;
use crate::uapi::ubd;
use crate::{cycles, size, sysfs};
use anyhow::{bail, Result};
use clap::Subcommand;
use serde_json::{json, Value};
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Add, remove and list the slots of a device: what its program may map to
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(AddArgs),
    Del(DelArgs),
    List(ListArgs),
}

/// Register a file or block device as a slot
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// The device: its number or /dev/ubdbN
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// A regular file or a block device
    file: PathBuf,
    /// Its number; the lowest free one by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(ubd::MAX_SLOTS)))]
    slot: Option<u32>,
    /// Where the slot's window begins, in bytes (4K, 1GiB, 1GB as losetup)
    #[arg(long, default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// How long the window is, in bytes; to the end by default
    #[arg(long, default_value = "0", value_parser = size::parse)]
    size: u64,
    /// Refuse writes
    #[arg(short, long)]
    read_only: bool,
    /// Bypass the page cache of a regular file; the daemon must do the same
    #[arg(long)]
    direct: bool,
}

/// Take a slot out of service at once; the file is let go when the device is closed
#[derive(Debug, clap::Args)]
struct DelArgs {
    /// The device: its number or /dev/ubdbN
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// The number of the slot
    slot: u32,
}

/// List the slots of a device
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The device: its number or /dev/ubdbN
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    device: u32,
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.verb {
        Verb::Add(args) => add(args),
        Verb::Del(args) => del(args),
        Verb::List(args) => list(args),
    }
}

fn add(args: &AddArgs) -> Result<()> {
    let (offset, length) = (
        sectors("--offset", args.offset)?,
        sectors("--size", args.size)?,
    );
    cycles::check(&args.file)?;
    let control = Control::open()?;
    let file = OpenOptions::new()
        .read(true)
        .write(!args.read_only)
        .open(&args.file)
        .context(|| format!("failed to open `{}`", args.file.display()))?;
    let slot = control::Slot {
        file: file.as_fd(),
        write: !args.read_only,
        direct: args.direct,
        offset,
        sectors: length,
        number: args.slot,
    };
    let (number, sectors) = control.register_slot(args.device, &slot)?;
    output::line(&format!(
        "added {} to {} as slot {number}, {sectors} sectors",
        args.file.display(),
        block_node(args.device)
    ))
}

fn sectors(option: &str, bytes: u64) -> Result<u64> {
    if bytes % 512 != 0 {
        bail!("{option} {bytes} is not a multiple of 512 bytes");
    }
    Ok(bytes / 512)
}

fn del(args: &DelArgs) -> Result<()> {
    Control::open()?.unregister_slot(args.device, args.slot)?;
    output::line(&format!(
        "removed slot {} of {}",
        args.slot,
        block_node(args.device)
    ))
}

fn list(args: &ListArgs) -> Result<()> {
    let slots = Control::open()?.slots(args.device)?;
    if args.json {
        return output::document("slots", slots.iter().map(to_json).collect());
    }
    const COLUMNS: [(&str, Align); 6] = [
        ("SLOT", Align::Right),
        ("OFFSET", Align::Right),
        ("SECTORS", Align::Right),
        ("MODE", Align::Left),
        ("STATE", Align::Left),
        ("BACKING", Align::Left),
    ];
    let rows: Vec<_> = slots
        .iter()
        .map(|slot| {
            vec![
                slot.slot.to_string(),
                slot.offset.to_string(),
                slot.nr_sectors.to_string(),
                if slot.flags & ubd::SLOT_WRITE != 0 {
                    "rw"
                } else {
                    "ro"
                }
                .into(),
                state(slot).into(),
                backing(slot),
            ]
        })
        .collect();
    output::text(&table::aligned(&COLUMNS, &rows, true))
}

fn state(slot: &ubd::SlotInfo) -> &'static str {
    match (
        slot.flags & ubd::SLOT_DRAINING != 0,
        slot.flags & ubd::SLOT_DIRTY != 0,
    ) {
        (true, _) => "draining",
        (false, true) => "dirty",
        (false, false) => "clean",
    }
}

/// What the kernel knows of the backing; it keeps no path.
fn backing(slot: &ubd::SlotInfo) -> String {
    let dev = dev(slot);
    if slot.flags & ubd::SLOT_FILE != 0 {
        let mode = if slot.flags & ubd::SLOT_DIRECT != 0 {
            ", direct"
        } else {
            ""
        };
        return format!("file (inode {} on {dev}{mode})", slot.ino);
    }
    // /sys/dev/block/8:1 leads to …/sda1.
    std::fs::read_link(format!("/sys/dev/block/{dev}"))
        .ok()
        .and_then(|link| {
            Some(format!(
                "/dev/{}",
                link.file_name()?.to_str()?.replace('!', "/")
            ))
        })
        .unwrap_or(format!("block device {dev}"))
}

/// `major:minor`
fn dev(slot: &ubd::SlotInfo) -> String {
    format!("{}:{}", slot.dev >> 32, slot.dev & 0xffff_ffff)
}

fn to_json(slot: &ubd::SlotInfo) -> Value {
    let has = |flag| slot.flags & flag != 0;
    json!({
        "slot": slot.slot,
        "offset": slot.offset,
        "nr_sectors": slot.nr_sectors,
        "write": has(ubd::SLOT_WRITE),
        "direct": has(ubd::SLOT_DIRECT),
        "file": has(ubd::SLOT_FILE),
        "draining": has(ubd::SLOT_DRAINING),
        "dirty": has(ubd::SLOT_DIRTY),
        "dev": dev(slot),
        "ino": has(ubd::SLOT_FILE).then_some(slot.ino),
    })
}
