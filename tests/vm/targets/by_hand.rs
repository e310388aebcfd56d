// SPDX-License-Identifier: MIT OR Apache-2.0
//! The concat program: two slots, one behind the other, and what happens at the seam.

use anyhow::{ensure, Context, Result};

use crate::support::backing::{same, Backing, Kind};
use crate::support::io::read_direct;
use crate::support::model::Model;
use crate::support::tree::{exercise, EXT4};
use crate::support::{sh, shipped_object, Files, Prog, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("concat/one_bio_across_the_seam", one_bio),
    Test::new("concat/model_disk_then_file", || {
        model(Kind::Disk, Kind::FileDirect)
    }),
    Test::new("concat/model_file_then_disk", || {
        model(Kind::FileBuffered, Kind::Disk)
    }),
    Test::new("concat/ext4_across_the_seam", ext4),
];

/// A device that is nothing by itself, with two slots and `concat` between them.
struct Concat {
    ubd: Ubd,
    _prog: Prog,
}

impl Concat {
    /// `slots`: the file, its `ubd-bpf slot add` options, its length in bytes.
    fn new(slots: [(String, String, u64); 2]) -> Result<Concat> {
        let sectors = slots.each_ref().map(|slot| slot.2 / 512);
        let lens = format!("slot_len={},{}", sectors[0], sectors[1]);
        let prog = Prog::load_as(&shipped_object("concat"), "concat", &[&lens, "nr=2"])?;
        // What is declined reads as zeroes and forgets writes: it cannot pass for mapped.
        let ubd = Ubd::add(&[&format!("-t null -s {}", slots[0].2 + slots[1].2)])?;
        for (number, (file, options, _)) in slots.iter().enumerate() {
            sh(format!(
                "ubd-bpf slot add {} {file} --slot {number} {options}",
                ubd.id()
            ))?;
        }
        sh(format!("ubd-bpf bind {} concat", ubd.node()))?;
        Ok(Concat { ubd, _prog: prog })
    }

    /// The windows of two backings, one behind the other.
    fn of(first: &Backing, second: &Backing) -> Result<Concat> {
        let slot = |backing: &Backing| {
            let direct = if backing.kind == Kind::FileDirect {
                "--direct"
            } else {
                ""
            };
            let (window, path) = (&backing.window, backing.path.display().to_string());
            (
                path,
                format!("--offset {} --size {} {direct}", window.start, window.len()),
                window.len() as u64,
            )
        };
        Concat::new([slot(first), slot(second)])
    }
}

/// Windows whose lengths are odd to 4 KiB, so that the seam is in the middle of a page.
fn backing(kind: Kind) -> Result<Backing> {
    Backing::with_window(kind, 5 * 512..(3 << 20) + 512)
}

fn one_bio() -> Result<()> {
    let (first, second) = (backing(Kind::Disk)?, backing(Kind::Disk)?);
    let concat = Concat::of(&first, &second)?;
    let seam = first.window.len();
    let should_be = [first.shown(), second.shown()].concat();
    for (before, len) in [
        (512, 1024),
        (24 << 10, 64 << 10),
        (64 << 10, 64 << 10),
        (0, 64 << 10),
    ] {
        let at = seam - before;
        let start = concat.ubd.counters()?;
        let is = read_direct(concat.ubd.node(), at as u64, len)?;
        let count = concat.ubd.counters()?.since(&start);
        same(&is, &should_be[at..at + len])
            .with_context(|| format!("{len} bytes at {before} before the seam"))?;
        count.all_mapped(1)?;
        let pieces = if before > 0 && before < len { 2 } else { 1 };
        ensure!(
            count["read_mapped"] == pieces && count["splits"] == pieces - 1,
            "{len} bytes at {before} before the seam are {pieces} pieces: {}",
            count.summary()
        );
        ensure!(
            count["read_mapped_sectors"] == len as u64 / 512,
            "{}",
            count.summary()
        );
    }
    Ok(())
}

fn model(first: Kind, second: Kind) -> Result<()> {
    let (first, second) = (backing(first)?, backing(second)?);
    let concat = Concat::of(&first, &second)?;
    let mut model = Model::of(&concat.ubd, [first.shown(), second.shown()].concat(), false)?;
    ensure!(
        model.block() == 512,
        "the device has blocks of {} bytes",
        model.block()
    );
    let before = concat.ubd.counters()?;
    let done = model
        .run(&concat.ubd.node(), 2, 250)
        .context("the device is not as its model")?;
    let count = concat.ubd.counters()?.since(&before);
    let data = count["read_declined"] + count["write_declined"];
    ensure!(
        data == 0 && count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["splits"] > 0,
        "nothing crossed the seam: {}",
        count.summary()
    );
    // Once both were written to, a flush goes to both.
    ensure!(
        count["flush_slots"] > done.flushes,
        "{done:?}: {}",
        count.summary()
    );
    drop(concat);
    let seam = first.window.len();
    first
        .check(&model.bytes[..seam])
        .context("the first slot")?;
    second
        .check(&model.bytes[seam..])
        .context("the second slot")
}

/// A file system that spans a disk and a file.
fn ext4() -> Result<()> {
    const FIRST: u64 = (16 << 20) + 512;
    const SECOND: u64 = (48 << 20) - 512;
    let disk = RamDisk::new()?;
    let files = Files::ext4()?;
    let file = files.file("half", SECOND)?;
    let concat = Concat::new([
        (disk.node(), format!("--size {FIRST}"), FIRST),
        (file.display().to_string(), "--direct".to_owned(), SECOND),
    ])?;
    let before = concat.ubd.counters()?;
    exercise(&EXT4, &concat.ubd.node())?;
    let count = concat.ubd.counters()?.since(&before);
    count.all_mapped(100)?;
    ensure!(
        count["splits"] > 0,
        "nothing crossed the seam: {}",
        count.summary()
    );
    let (file, all) = (
        count["file_worker"],
        count["read_mapped"] + count["write_mapped"],
    );
    ensure!(
        file > 0 && file < all,
        "one slot had nothing to do: {}",
        count.summary()
    );
    Ok(())
}
