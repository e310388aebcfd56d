// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems after a power cut: they mount, are whole, and have what was synced.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::load;
use super::log::{Entry, What, SECTOR};
use super::logged::Logged;
use super::raw::{self, Judge, REGION};
use super::shape::{Held, Shape};
use crate::support::backing::{noise, same};
use crate::support::io::{open_buffered, Aligned};
use crate::support::mount::Mount;
use crate::support::tree::{Kind, EXT4};
use crate::support::{is_long, sh, Way};

/// The file system before the first logged write, and after some of them.
const BASE: &str = "/tmp/crash-base";
const REPLAYED: &str = "/tmp/crash-replayed";
const MOUNT: &str = "/mnt/crash";

const RECORD: usize = 4096;
const STEPS: usize = 18;
/// Points of a log that are looked at, when there is no time for all.
const SAMPLES: usize = 3;

/// The images; gone when dropped.
struct Images {
    bytes: u64,
}

impl Images {
    /// A file system of `bytes` bytes that holds what `fill`, a script run in its root, makes.
    fn new(kind: &Kind, bytes: u64, fill: &str) -> Result<Images> {
        let images = Images { bytes };
        let lazy = match kind.name {
            "ext4" => "-E nodiscard,lazy_itable_init=0,lazy_journal_init=1",
            _ => "",
        };
        sh(format!(
            "modprobe loop; rm -f {BASE}; truncate -s {bytes} {BASE}; {} {lazy} {BASE}
             mkdir -p {MOUNT}; mount -t {} -o loop {BASE} {MOUNT}
             (cd {MOUNT}; {fill}); umount {MOUNT}",
            kind.mkfs, kind.name
        ))
        .context("making a file system")?;
        Ok(images)
    }

    /// Writes the base to the disks of a device.
    fn deal(&self, shape: Shape, member: usize, node: &str) -> Result<()> {
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

    /// Replays each log up to an entry, mounts what is there, and lets `look` look at it.
    fn replay(
        &self,
        kind: &Kind,
        shape: Shape,
        logs: &[Vec<Entry>],
        upto: &[usize],
        look: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        sh(format!("cp --sparse=always {BASE} {REPLAYED}"))?;
        let image = OpenOptions::new().write(true).open(REPLAYED)?;
        let len = self.bytes / SECTOR as u64 / shape.members() as u64;
        for (member, (entries, upto)) in logs.iter().zip(upto).enumerate() {
            let shown = shape.shown(member, len);
            for entry in &entries[..=*upto] {
                let What::Write { sector, data } = &entry.what else {
                    continue;
                };
                let sectors = data.len() / SECTOR;
                let shown = shown
                    .get(*sector as usize..)
                    .and_then(|shown| shown.get(..sectors))
                    .context("a write behind the end")?;
                // What lies together above, at once.
                let mut bytes = data.as_slice();
                for run in shown.chunk_by(|a, b| a + 1 == *b) {
                    let (these, others) = bytes.split_at(run.len() * SECTOR);
                    image.write_all_at(these, run[0] * SECTOR as u64)?;
                    bytes = others;
                }
            }
        }
        sh(format!("mount -t {} -o loop {REPLAYED} {MOUNT}", kind.name)).context("mount")?;
        let looked = look();
        sh(format!("umount {MOUNT}")).context("umount")?;
        looked?;
        sh(format!("{} {REPLAYED}", kind.fsck)).context("fsck")?;
        Ok(())
    }
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

/// What step `number` makes durable.
enum Step {
    /// A new file.
    File,
    /// A record written over, with O_DSYNC past the page cache.
    Record,
    /// A file that takes the place of another.
    Replaced,
}

impl Step {
    fn of(number: usize) -> Step {
        match number % 3 {
            0 => Step::File,
            1 => Step::Record,
            _ => Step::Replaced,
        }
    }

    fn content(number: usize) -> &'static [u8] {
        let len = match Step::of(number) {
            Step::Record => RECORD,
            _ => 1 + number * 7919 % 90_000,
        };
        noise(number * 77_777, len)
    }

    fn perform(number: usize, dir: &Path) -> Result<()> {
        let content = Step::content(number);
        match Step::of(number) {
            Step::File => {
                let file = File::create_new(dir.join(format!("file-{number}")))?;
                file.write_all_at(content, 0)?;
                file.sync_all()?;
            }
            Step::Record => {
                let file = OpenOptions::new()
                    .write(true)
                    .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
                    .open(dir.join("records"))?;
                file.write_all_at(&Aligned::copy_of(content, 0), (number * RECORD) as u64)?;
            }
            Step::Replaced => {
                let new = dir.join("new");
                fs::write(&new, content)?;
                File::open(&new)?.sync_all()?;
                fs::rename(&new, dir.join("current"))?;
                File::open(dir)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// It is there, after acknowledgement `acks`.
    fn check(number: usize, acks: usize, dir: &Path) -> Result<()> {
        match Step::of(number) {
            Step::File => same(
                &fs::read(dir.join(format!("file-{number}")))?,
                Step::content(number),
            ),
            Step::Record => {
                let mut is = vec![0; RECORD];
                File::open(dir.join("records"))?
                    .read_exact_at(&mut is, (number * RECORD) as u64)?;
                same(&is, Step::content(number))
            }
            Step::Replaced => {
                let is = fs::read(dir.join("current"))?;
                let later = (number..=acks + 3).filter(|later| later % 3 == 2);
                for number in later {
                    if is == Step::content(number) {
                        return Ok(());
                    }
                }
                bail!("`current` is an older one, or none at all");
            }
        }
    }
}

/// Syncs files one after the other, beside a thread that does as well.
fn work(dir: &Path, logged: &Logged) -> Result<()> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| -> Result<()> {
            let file = File::create(dir.join("busy"))?;
            for number in 0.. {
                file.write_all_at(noise(number * 4099, 3 << 10), (number as u64 % 50) * 8192)?;
                if number % 4 == 0 {
                    file.sync_data()?;
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        let worked = (0..STEPS).try_for_each(|number| {
            Step::perform(number, dir).with_context(|| format!("step {number}"))?;
            logged.mark(&format!("ack-{}", number + 1))
        });
        done.store(true, Ordering::Relaxed);
        busy.join().expect("a writer").context("the busy file")?;
        worked
    })
}

pub fn file_system(kind: &Kind, shape: Shape, way: Way) -> Result<()> {
    let members = shape.members();
    let mib = match kind.name {
        "xfs" => 320,
        _ => 32,
    };
    let fill =
        format!("dd if=/dev/zero of=records bs={RECORD} count={STEPS} conv=fsync status=none");
    let images = Images::new(kind, mib << 20, &fill)?;
    let each = mib / members as u64;
    let logged = Logged::new(members, each, |member, node| {
        images.deal(shape, member, node)
    })?;
    let device = shape.device(way, &logged.nodes(), each << 11)?;
    let mount = Mount::existing(&device.ubd().node())?;
    work(mount.dir(), &logged)?;
    device.check_way()?;
    drop(mount);
    device.del()?;
    let logs = logged.end()?;

    let points = points(&logs)?;
    let all = points.len();
    ensure!(all > 2 * STEPS, "only {all} points");
    let sample = sample(points);
    println!("{all} points, {} looked at", sample.len());
    for point in sample {
        images
            .replay(kind, shape, &logs, &point.upto, || {
                (0..point.acks).try_for_each(|number| {
                    Step::check(number, point.acks, Path::new(MOUNT))
                        .with_context(|| format!("what step {number} has synced"))
                })
            })
            .with_context(|| format!("after {}", point.what))?;
    }
    Ok(())
}

/// A raw disk again, in a file of ext4 that lies on a logged disk.
pub fn raw_file(way: Way) -> Result<()> {
    let fill =
        format!("dd if=/dev/zero of=image bs={SECTOR} count={REGION} conv=fsync status=none");
    let images = Images::new(&EXT4, 32 << 20, &fill)?;
    let shape = Shape::Linear;
    let logged = Logged::new(1, 32, |member, node| images.deal(shape, member, node))?;
    let mount = Mount::existing(&logged.nodes()[0])?;
    let image: PathBuf = mount.dir().join("image");
    let (ubd, _prog) = way.device(&image.to_string_lossy(), "--direct-io=on")?;
    let history = load(Held::tool(ubd, way), 0, &logged)?;
    drop(mount);
    let logs = logged.end()?;

    let points = points(&logs)?;
    ensure!(
        points.len() > 2 * history.acks(),
        "only {} points",
        points.len()
    );
    let sample = sample(points);
    println!(
        "{} acknowledgements, {} points looked at",
        history.acks(),
        sample.len()
    );
    for point in sample {
        images
            .replay(&EXT4, shape, &logs, &point.upto, || {
                let is = fs::read(Path::new(MOUNT).join("image"))?;
                let mut judge = Judge::new(&history);
                judge.mark(&format!("ack-{}", point.acks))?;
                for (sector, bytes) in is.chunks(SECTOR).enumerate() {
                    judge.put(sector, bytes, false);
                }
                judge.check(0..raw::REGION)
            })
            .with_context(|| format!("after {}", point.what))?;
    }
    Ok(())
}
