// SPDX-License-Identifier: MIT OR Apache-2.0
//! I/O, in the task of whoever uses the device, in the daemon's, and in the driver's threads.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::{here, next, tasks, Counter, Injection, Outcome, Seen};
use crate::support::backing::{noise, same};
use crate::support::io::{open_direct, write_flags, Aligned};
use crate::support::{Files, Quiet, RamDisk, Ubd, Way};

/// Larger than a bio of single pages.
const LEN: usize = 5 << 18;

/// Whose memory it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    User,
    Daemon,
    /// The threads that call file systems.
    Threads,
}

/// What a user does; `at` and `seed` of what is written.
type Act = fn(&File, &mut Aligned) -> std::io::Result<()>;

const ACTS: [(&str, Act); 5] = [
    ("write", |file, data| file.write_all_at(data, 0)),
    ("small write", |file, data| {
        file.write_all_at(&data[..4096], 8192)
    }),
    ("durable write", |file, data| {
        write_flags(file, &data[..8192], 4096, libc::RWF_DSYNC).map(drop)
    }),
    ("read", |file, data| file.read_exact_at(data, 0)),
    ("flush", |file, _| file.sync_data()),
];

/// A device of a disk.
pub fn disk(way: Way, who: Who, more: &str) -> Result<()> {
    let _injection = Injection::new()?;
    let disk = RamDisk::new()?;
    let (ubd, _prog) = way.device(&disk.node(), more)?;
    suffer(way, who, &ubd)?;
    ubd.del()
}

/// A device of a file.
pub fn file(way: Way, who: Who, more: &str) -> Result<()> {
    let _injection = Injection::new()?;
    let files = Files::ext4()?;
    let path = files.file("backing", 8 << 20)?;
    let (ubd, _prog) = way.device(&path.to_string_lossy(), more)?;
    suffer(way, who, &ubd)?;
    ubd.del()
}

fn suffer(way: Way, who: Who, ubd: &Ubd) -> Result<()> {
    let _quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let before = ubd.counters()?;
    let mut holds = Aligned::copy_of(noise(1, LEN), 0);
    file.write_all_at(&holds, 0)?;
    let own = Counter::own()?;
    for (name, act) in ACTS {
        let mut seen = Seen::default();
        let mut n = 1;
        loop {
            let mut data = Aligned::copy_of(noise(n as usize * 4099, LEN), 512);
            let mut call = || match act(&file, &mut data) {
                Ok(()) => 0,
                Err(err) => -err.raw_os_error().unwrap_or(libc::EINVAL),
            };
            let outcome = match who {
                Who::User => here(&own, n, call)?,
                Who::Daemon | Who::Threads => elsewhere(&others(who, ubd)?, n, &mut call)?,
            };
            let more = seen.note(n, &outcome).with_context(|| name.to_owned())?;
            // Whatever has become of it, the next one is done, and the rest is as it was.
            match act(&file, &mut data) {
                Ok(()) => {}
                Err(err) => return Err(err).with_context(|| format!("{name} after {n}")),
            }
            match name {
                "write" => holds.copy_from_slice(&data),
                "small write" => holds[8192..12288].copy_from_slice(&data[..4096]),
                "durable write" => holds[4096..12288].copy_from_slice(&data[..8192]),
                _ => {}
            }
            let mut is = Aligned::new(LEN);
            file.read_exact_at(&mut is, 0)?;
            same(&is, &holds).with_context(|| format!("behind {name}, allocation {n}"))?;
            if !more {
                break;
            }
            n = next(n);
        }
        seen.print(name);
    }
    way.check(&["read", "write"], &ubd.counters()?.since(&before))
}

/// The other tasks that have to do with a device.
fn others(who: Who, ubd: &Ubd) -> Result<Vec<Counter>> {
    if who == Who::Daemon {
        return tasks(&ubd.pid()?.to_string(), "");
    }
    let mut threads = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with(&format!("ubd{}/", ubd.id())) {
            threads.extend(Counter::open(Path::new(&path)));
        }
    }
    ensure!(!threads.is_empty(), "the device has no threads");
    Ok(threads)
}

/// Each of the tasks fails its `n`th allocation.
fn elsewhere(tasks: &[Counter], n: u32, call: &mut dyn FnMut() -> i32) -> Result<Outcome> {
    for task in tasks {
        task.set(n)?;
    }
    let result = call();
    let mut injected = false;
    for task in tasks {
        // It may have ended meanwhile.
        injected |= task.left().is_ok_and(|left| left == 0);
        let _ = task.set(0);
    }
    Ok(Outcome { result, injected })
}
