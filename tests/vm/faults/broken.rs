// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of the backing fail in the middle of a load.

use std::ops::Range;
use std::thread;

use anyhow::{ensure, Result};

use super::flaky::{Fault, Flaky};
use super::load::Load;
use crate::support::io::{read_direct, write_direct};
use crate::support::mount::{image, Mount};
use crate::support::{growth, is_long, seconds, sh, Quiet, Ubd, Way};

const BYTES: usize = 6 << 20;

/// Of the device, in sectors: some in each thread's part.
fn bad() -> Vec<Range<u64>> {
    (0..6)
        .map(|number| number * 2048 + 512 + number * 8)
        .map(|start| start..start + 128)
        .collect()
}

/// What is told to fail, one after the other; the first two if there is no time.
const FAULTS: [Fault; 4] = [Fault::All, Fault::Forgets, Fault::Reads, Fault::Writes];

/// The load on a device, and the faults; `below` are the bad parts as the disk counts.
fn suffer(way: Way, ubd: &Ubd, disk: &Flaky, below: &[Range<u64>], bytes: &[u8]) -> Result<()> {
    let bad = bad();
    let _quiet = Quiet::udev()?;
    let load = Load::new(&ubd.node(), &bad)?;
    let faults = if is_long() { &FAULTS[..] } else { &FAULTS[..2] };
    let mut done = Default::default();
    let count = growth(ubd, || {
        done = load.run(bytes, || {
            for &fault in faults {
                thread::sleep(seconds(1) / 5);
                load.change(Some(fault), || disk.set(below, Some(fault)))?;
                thread::sleep(seconds(1) / 2);
                load.change(None, || disk.set(&[], None))?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    way.check(&["read", "write"], &count)?;
    ensure!(
        done.good > 100 && done.failed > 30 && done.forgotten > 3,
        "there was little load: {done:?}"
    );
    println!("{done:?}");
    Ok(())
}

/// A slot of a block device.
pub fn disk(way: Way) -> Result<()> {
    let disk = Flaky::new(0, (BYTES >> 20) as u64)?;
    let bytes = crate::support::backing::noise(7, 2 << 20).repeat(BYTES >> 21);
    write_direct(disk.node(), 0, &bytes)?;
    let (ubd, prog) = way.device(&disk.node(), "")?;
    suffer(way, &ubd, &disk, &bad(), &bytes)?;
    ubd.del()?;
    drop(prog);
    Ok(())
}

/// A slot of a file, by direct I/O: the file system's own blocks stay good.
pub fn file(way: Way) -> Result<()> {
    const EXT4: &str =
        "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=1 -J size=4";
    let disk = Flaky::new(0, 32)?;
    let mount = Mount::make(EXT4, &disk.node())?;
    let (path, bytes) = image(mount.dir(), "image", BYTES)?;
    let path = path.to_string_lossy().into_owned();
    let mut below = Vec::new();
    for part in bad() {
        below.extend(placed(&path, &part)?);
    }
    below.sort_by_key(|part| part.start);
    let (ubd, prog) = way.device(&path, "--direct-io=on")?;
    suffer(way, &ubd, &disk, &below, &bytes)?;
    ubd.del()?;
    drop(prog);
    let is = read_direct(&path, 0, BYTES)?;
    ensure!(is != bytes, "nothing was written");
    mount.check("e2fsck -fn")
}

/// Where a part of a file is on its disk, all in sectors.
pub fn placed(path: &str, part: &Range<u64>) -> Result<Vec<Range<u64>>> {
    // "   0:        0..    1535:      34816..     36351:   1536: …", in blocks of 512 bytes.
    let extents = sh(format!(
        "sync; filefrag -v -b512 {path} | sed -n 's/[:.]/ /g; s/^ *[0-9]\\+  *\\([0-9].*\\)/\\1/p'"
    ))?;
    let mut placed = Vec::new();
    for line in extents.lines() {
        let mut numbers = line
            .split_whitespace()
            .map_while(|word| word.parse::<u64>().ok());
        let (Some(first), Some(last), Some(physical)) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            continue;
        };
        let (start, end) = (part.start.max(first), part.end.min(last + 1));
        if start < end {
            placed.push(physical + start - first..physical + end - first);
        }
    }
    let found: u64 = placed.iter().map(|part| part.end - part.start).sum();
    ensure!(
        found == part.end - part.start,
        "sectors {part:?} of `{path}` are not all somewhere: {extents}"
    );
    Ok(placed)
}
