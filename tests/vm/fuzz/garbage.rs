// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program whose answers are random numbers. Every sector of every backing says whose it is, so
//! that one that is read, or one that was written to, tells where it was.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::control::{Control, Slot};

use super::{seed, span};
use crate::support::io::{discard, open_buffered, open_direct, zero_out, Aligned};
use crate::support::{object, sh, Files, Prog, RamDisk, Ubd};

/// Sectors of a backing, and those that its slot shows.
const SECTORS: u64 = 3 << 11;
const WINDOW: Range<u64> = 2049..2049 + (1 << 11);
const SECTOR: usize = 512;
/// The first word of a sector that nobody wrote to, with the slot and the sector; and of one that
/// was written.
const OLD: u64 = 0x7562_6400 << 32;
const NEW: u64 = 0x7772_6974 << 32;
/// The slot that must not be written.
const READ_ONLY: u64 = 1;

/// What a sector is, all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sector {
    /// As it was: slot and sector of the backing.
    Old(u64, u64),
    New,
    Zero,
}

fn old(slot: u64, sector: u64) -> u64 {
    OLD | slot << 24 | sector
}

/// An error if the word is nothing known.
fn read_word(word: &[u8]) -> Result<Sector> {
    let word = u64::from_ne_bytes(word.try_into()?);
    match (word >> 32 << 32, word & 0xffff_ffff) {
        (OLD, place) => Ok(Sector::Old(place >> 24, place & 0xff_ffff)),
        (NEW, _) => Ok(Sector::New),
        (0, 0) => Ok(Sector::Zero),
        _ => bail!("it is of nobody: {word:#x}"),
    }
}

/// The same of a sector at rest; an error also if its words are not all the same.
fn read_sector(bytes: &[u8]) -> Result<Sector> {
    // Each word is the next one.
    ensure!(bytes[8..] == bytes[..SECTOR - 8], "it is of several kinds");
    read_word(&bytes[..8])
}

/// Fills a backing.
fn fill(path: &Path, slot: u64) -> Result<()> {
    let sector = |sector| old(slot, sector).to_ne_bytes().repeat(SECTOR / 8);
    let bytes: Vec<_> = (0..SECTORS).flat_map(sector).collect();
    let file = open_buffered(path)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    forget(path)
}

fn forget(path: &Path) -> Result<()> {
    sh(format!(
        "sync; [ ! -b {0} ] || blockdev --flushbufs {0}",
        path.display()
    ))?;
    Ok(())
}

/// Outside of its window a backing is as it was; inside, every sector is its own, or was written.
fn check(path: &Path, slot: u64) -> Result<()> {
    forget(path)?;
    let mut bytes = vec![0; SECTORS as usize * SECTOR];
    open_buffered(path)?.read_exact_at(&mut bytes, 0)?;
    for (sector, bytes) in (0..).zip(bytes.chunks(SECTOR)) {
        let is = read_sector(bytes).with_context(|| format!("sector {sector}"))?;
        let own = is == Sector::Old(slot, sector);
        ensure!(
            own || WINDOW.contains(&sector) && slot != READ_ONLY && !matches!(is, Sector::Old(..)),
            "sector {sector} is {is:?}"
        );
    }
    Ok(())
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    old: u64,
    new: u64,
    zero: u64,
    errors: u64,
}

fn read(file: &File, rng: &mut Rng, seen: &mut Seen) -> Result<()> {
    let (at, len) = place(rng);
    // What is there before is nothing that a sector may be.
    let mut buffer = Aligned::shifted(len, rng.usize(..8) * SECTOR);
    buffer.fill(0xa5);
    if file.read_exact_at(&mut buffer, at).is_err() {
        seen.errors += 1;
        return Ok(());
    }
    // The other user may write the same sector, by another address: words, not sectors, are whole.
    for (number, word) in buffer.chunks(8).enumerate() {
        match read_word(word).with_context(|| format!("word {number} of {len} bytes at {at}"))? {
            Sector::Old(slot, sector) => {
                ensure!(
                    WINDOW.contains(&sector),
                    "sector {sector} of slot {slot} was read, outside of the window"
                );
                seen.old += 1;
            }
            Sector::New => seen.new += 1,
            Sector::Zero => seen.zero += 1,
        }
    }
    Ok(())
}

fn place(rng: &mut Rng) -> (u64, usize) {
    let longest = 256usize >> rng.u32(..9);
    let len = rng.usize(1..=longest.max(1)) * SECTOR;
    (rng.u64(..(16 << 11) - 256) << 9, len)
}

fn write(file: &File, rng: &mut Rng, seen: &mut Seen) {
    let (at, len) = place(rng);
    let mut buffer = Aligned::shifted(len, rng.usize(..8) * SECTOR);
    let word = NEW | u64::from(rng.u32(..));
    buffer.copy_from_slice(&word.to_ne_bytes().repeat(len / 8));
    seen.errors += u64::from(file.write_all_at(&buffer, at).is_err());
}

/// For as long as there is time.
fn use_disk(node: &str, rng: &mut Rng, limit: Duration) -> Result<Seen> {
    let file = open_direct(node, true)?;
    let mut seen = Seen::default();
    let start = Instant::now();
    while start.elapsed() < limit {
        match rng.u32(0..40) {
            0 => drop(file.sync_data()),
            1 => drop(discard(&file, place(rng).0, 64 << 10)),
            2 => drop(zero_out(&file, place(rng).0, 64 << 10)),
            3..15 => write(&file, rng, &mut seen),
            _ => read(&file, rng, &mut seen)?,
        }
    }
    Ok(seen)
}

/// Untracked, then tracked.
pub fn verdicts() -> Result<()> {
    let seed = seed::seed("fuzz/verdicts");
    for program in ["garbage", "garbage_tracked"] {
        asked(program, seed).with_context(|| format!("`{program}`, UBD_SEED={seed}"))?;
    }
    Ok(())
}

fn asked(program: &str, seed: u64) -> Result<()> {
    let (disks, files) = ([RamDisk::new()?, RamDisk::new()?], Files::ext4()?);
    let bytes = SECTORS << 9;
    // With how a file is opened; the second is READ_ONLY.
    let backings: [(PathBuf, bool); 4] = [
        (disks[0].node().into(), false),
        (disks[1].node().into(), false),
        (files.file("direct", bytes)?, true),
        (files.file("buffered", bytes)?, false),
    ];
    let window = WINDOW.end - WINDOW.start;
    let prog = Prog::load(
        program,
        &[
            &format!("window={window}"),
            &format!("read_only={READ_ONLY}"),
        ],
    )?;
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    let control = Control::open()?;
    for (slot, (path, direct)) in (0..).zip(&backings) {
        fill(path, slot)?;
        let write = slot != READ_ONLY;
        let file = File::options().read(true).write(write).open(path)?;
        control.register_slot(
            ubd.id(),
            &Slot {
                file: file.as_fd(),
                write,
                direct: *direct,
                offset: WINDOW.start,
                sectors: window,
                number: Some(slot as u32),
            },
        )?;
    }
    control.bind(ubd.id(), program, 0)?;

    let limit = span(4);
    let seen = std::thread::scope(|scope| {
        let users = [0, 1].map(|number| {
            let (node, mut rng) = (ubd.node(), Rng::with_seed(seed.wrapping_add(number)));
            scope.spawn(move || use_disk(&node, &mut rng, limit))
        });
        users.map(|user| user.join().expect("a user"))
    });
    let [one, two] = seen;
    let (one, two) = (one?, two?);
    // udev reads the disk when it was closed: more may come at any time.
    let (before, counters, after) = (state(program)?, ubd.counters()?, state(program)?);
    println!("{program}: {one:?}, {two:?}");
    ensure!(
        one.old > 0 && one.new > 0 && one.zero > 0 && counters["mapped"] > 500,
        "too little of something was seen"
    );
    ensure!(!after.0, "it was ejected, with {} bad answers", after.1);
    ensure!(
        before.1 > 20 && (before.1..=after.1).contains(&counters["bad"]),
        "{} to {} bad answers of the program, {} of the device",
        before.1,
        after.1,
        counters["bad"]
    );
    for (slot, (path, _)) in (0..).zip(&backings) {
        check(path, slot).with_context(|| format!("slot {slot}, `{}`", path.display()))?;
    }

    // The same without restraint, which does not last.
    prog.replace(
        &object(program),
        &[&format!("window={window}"), "per_second=4000000000"],
    )?;
    use_disk(&ubd.node(), &mut Rng::with_seed(!seed), limit / 4)?;
    let state = state(program)?;
    ensure!(state.0, "{} bad answers, and not ejected", state.1);
    let before = ubd.counters()?;
    let mut rest = Seen::default();
    let file = open_direct(ubd.node(), true)?;
    let mut rng = Rng::with_seed(seed);
    (0..50).try_for_each(|_| read(&file, &mut rng, &mut rest))?;
    ensure!(
        rest.old + rest.new + rest.errors == 0 && rest.zero > 0,
        "an ejected program answers: {rest:?}"
    );
    ensure!(ubd.counters()?.since(&before)["mapped"] == 0);
    drop(file);
    for (slot, (path, _)) in (0..).zip(&backings) {
        check(path, slot).with_context(|| format!("slot {slot}, `{}`", path.display()))?;
    }
    ubd.del()?;
    prog.unload()
}

/// Whether a program was ejected, and its bad answers.
fn state(program: &str) -> Result<(bool, u64)> {
    let programs = Control::open()?.programs()?;
    let found = programs.iter().find(|found| found.name == program);
    let found = found.with_context(|| format!("`{program}` is gone"))?;
    Ok((found.ejected, found.bad_verdicts))
}
