// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems after a power cut: they mount, are whole, and have what was synced.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::images::Images;
use super::load;
use super::log::SECTOR;
use super::logged::Logged;
use super::raw::{self, Judge, REGION};
use super::shape::{Held, Shape};
use crate::support::backing::{noise, same};
use crate::support::io::Aligned;
use crate::support::mount::Mount;
use crate::support::tree::{Kind, EXT4};
use crate::support::Way;

const RECORD: usize = 4096;
const STEPS: usize = 18;

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

    images.replay(kind, shape, &logs, 2 * STEPS, |dir, acks| {
        (0..acks).try_for_each(|number| {
            Step::check(number, acks, dir).with_context(|| format!("what step {number} has synced"))
        })
    })
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

    images.replay(&EXT4, shape, &logs, 2 * history.acks(), |dir, acks| {
        let is = fs::read(dir.join("image"))?;
        let mut judge = Judge::new(&history);
        judge.mark(&format!("ack-{acks}"))?;
        for (sector, bytes) in is.chunks(SECTOR).enumerate() {
            judge.put(sector, bytes, false);
        }
        judge.check(0..raw::REGION)
    })
}
