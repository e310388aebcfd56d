// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a replayed log leaves of a file system, from point to point.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use nix::mount::{mount, umount, MsFlags};
use nix::unistd::{lseek, Whence};

use super::log::{Entry, What, SECTOR};
use super::shape::Shape;
use crate::support::io::open_buffered;
use crate::support::tree::Kind;
use crate::support::{is_long, sh, LoopDisk, Quiet};

/// The file system before the first logged write, and after some of them.
const BASE: &str = "/tmp/crash-base";
const REPLAYED: &str = "/tmp/crash-replayed";
const MOUNT: &str = "/mnt/crash";

/// Points of a log that are looked at, when there is no time for all.
const SAMPLES: usize = 3;

/// The images; gone when dropped.
pub struct Images {
    bytes: u64,
}

impl Images {
    /// A file system of `bytes` bytes that holds what `fill`, a script run in its root, makes.
    pub fn new(kind: &Kind, bytes: u64, fill: &str) -> Result<Images> {
        let images = Images { bytes };
        let lazy = match kind.name {
            "ext4" => "-E nodiscard,lazy_itable_init=0,lazy_journal_init=1",
            _ => "",
        };
        sh(format!(
            "modprobe loop; rm -f {BASE}; truncate -s {bytes} {BASE}; {} {lazy} {BASE}
             mkdir -p {MOUNT}; mount -t {} -o loop {BASE} {MOUNT}
             (cd {MOUNT}; {fill}); umount {MOUNT}; fallocate --dig-holes {BASE}",
            kind.mkfs, kind.name
        ))
        .context("making a file system")?;
        Ok(images)
    }

    /// Writes the base to the disks of a device.
    pub fn deal(&self, shape: Shape, member: usize, node: &str) -> Result<()> {
        const PIECE: usize = 8 * SECTOR; // which no shape cuts
        const MUCH: usize = 1 << 20;
        let len = self.bytes / SECTOR as u64 / shape.members() as u64;
        let (base, disk) = (File::open(BASE)?, open_buffered(node)?);
        let (mut much, nothing) = (vec![0; MUCH], vec![0; MUCH]);
        for start in (0..self.bytes).step_by(MUCH) {
            base.read_exact_at(&mut much, start)?;
            if much == nothing {
                continue;
            }
            for (at, bytes) in (start..).step_by(PIECE).zip(much.chunks(PIECE)) {
                let (on, sector) = shape.find(at / SECTOR as u64, len);
                if on == member && bytes != &nothing[..PIECE] {
                    disk.write_all_at(bytes, sector * SECTOR as u64)?;
                }
            }
        }
        disk.sync_all()?;
        sh(format!("blockdev --flushbufs {node}"))?;
        Ok(())
    }

    /// Replays the logs from point to point, of which there are more than `least`, and mounts what is
    /// there. `look` looks at that; it has the number of acknowledgements that there were.
    pub fn replay(
        &self,
        kind: &Kind,
        shape: Shape,
        logs: &[Vec<Entry>],
        least: usize,
        look: impl Fn(&Path, usize) -> Result<()>,
    ) -> Result<()> {
        let points = points(logs)?;
        let all = points.len();
        ensure!(all > least, "only {all} points");
        let sample = sample(points);
        println!("{all} points, {} looked at", sample.len());
        // It would look at the disk after each.
        let _quiet = Quiet::udev()?;
        // The base is carried along; what is mounted, and changed by that, is a copy.
        let base = OpenOptions::new().read(true).write(true).open(BASE)?;
        let copy = File::create(REPLAYED)?;
        copy.set_len(self.bytes)?;
        let disk = LoopDisk::new(Path::new(REPLAYED), "")?;
        let len = self.bytes / SECTOR as u64 / shape.members() as u64;
        let shown: Vec<_> = (0..shape.members())
            .map(|member| shape.shown(member, len))
            .collect();
        let mut done = vec![0; logs.len()];
        for point in sample {
            for (member, upto) in point.upto.iter().enumerate() {
                let next = &logs[member][done[member]..=*upto];
                for entry in next {
                    if let What::Write { sector, data } = &entry.what {
                        write_shown(&base, &shown[member], *sector, data)?;
                    }
                }
                done[member] = upto + 1;
            }
            copy_data(&base, &copy)?;
            mounted(kind, &disk.node(), || look(Path::new(MOUNT), point.acks))
                .with_context(|| format!("after {}", point.what))?;
        }
        Ok(())
    }
}

/// What was written at `sector` of a disk, written to where the device shows it.
fn write_shown(base: &File, shown: &[u64], sector: u64, mut data: &[u8]) -> Result<()> {
    let shown = shown
        .get(sector as usize..)
        .and_then(|shown| shown.get(..data.len() / SECTOR))
        .context("a write behind the end")?;
    // What lies together above, at once.
    for run in shown.chunk_by(|a, b| a + 1 == *b) {
        let (these, others) = data.split_at(run.len() * SECTOR);
        base.write_all_at(these, run[0] * SECTOR as u64)?;
        data = others;
    }
    Ok(())
}

/// Makes a file the copy of another, holes and all.
fn copy_data(from: &File, to: &File) -> Result<()> {
    let len = from.metadata()?.len();
    to.set_len(0)?;
    to.set_len(len)?;
    let mut bytes = Vec::new();
    let mut end = 0;
    // There is nothing behind the last byte: ENXIO.
    while let Ok(start) = lseek(from, end, Whence::SeekData) {
        end = lseek(from, start, Whence::SeekHole)?;
        bytes.resize((end - start) as usize, 0);
        from.read_exact_at(&mut bytes, start as u64)?;
        to.write_all_at(&bytes, start as u64)?;
    }
    Ok(())
}

/// Lets `look` look at what is on `node`, and has it checked. There are a thousand of these: no
/// command is started that a call can stand in for.
fn mounted(kind: &Kind, node: &str, look: impl FnOnce() -> Result<()>) -> Result<()> {
    let nothing = None::<&str>;
    mount(
        Some(node),
        MOUNT,
        Some(kind.name),
        MsFlags::empty(),
        nothing,
    )
    .context("mount")?;
    let looked = look();
    umount(MOUNT).context("umount")?;
    looked?;
    let mut fsck = kind.fsck.split(' ').chain([node]);
    let program = fsck.next().context("no command")?;
    let out = Command::new(program).args(fsck).output().context("fsck")?;
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    ensure!(out.status.success(), "fsck: {}\n{text}", out.status);
    Ok(())
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = sh(format!(
            "mountpoint -q {MOUNT} && umount {MOUNT}; rm -f {BASE} {REPLAYED}"
        ));
    }
}

/// A moment: how far each log had come, and which acknowledgements there were before.
struct Point {
    upto: Vec<usize>,
    acks: usize,
    what: String,
}

/// The moments that the logs have in common.
fn points(logs: &[Vec<Entry>]) -> Result<Vec<Point>> {
    let mut all: Vec<Vec<Point>> = Vec::new();
    for entries in logs {
        let (mut acks, mut flushes, mut here) = (0, 0, Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let what = match &entry.what {
                What::Mark(text) => {
                    if let Some(number) = text.strip_prefix("ack-") {
                        acks = number.parse()?;
                        flushes = 0;
                    }
                    format!("mark `{text}`")
                }
                What::Write { .. } if entry.flush => {
                    flushes += 1;
                    format!("flush {flushes} behind acknowledgement {acks}")
                }
                // Its moment is one of its own disk alone.
                What::Write { .. } if entry.fua && logs.len() == 1 => format!("FUA {index}"),
                What::Write { .. } => continue,
            };
            here.push(Point {
                upto: vec![index],
                acks,
                what,
            });
        }
        all.push(here);
    }
    let mut logs = all.into_iter();
    let mut common = logs.next().context("no log")?;
    for other in logs {
        common.retain_mut(|point| {
            let same = other.iter().find(|other| other.what == point.what);
            point
                .upto
                .extend(same.into_iter().flat_map(|same| &same.upto));
            same.is_some()
        });
    }
    Ok(common)
}

/// The last one, and some of the others.
fn sample(points: Vec<Point>) -> Vec<Point> {
    let count = if is_long() { points.len() } else { SAMPLES };
    let step = points.len().div_ceil(count).max(1);
    let mut sample: Vec<Point> = points.into_iter().rev().step_by(step).collect();
    sample.reverse();
    sample
}
