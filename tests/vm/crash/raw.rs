// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk without a file system: which versions of each sector may be there after a power cut.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;

use super::log::SECTOR;
use crate::support::backing::noise;
use crate::support::io::{open_direct, write_flags, Aligned};

/// What is written to, in sectors from the start of the region: by two threads that write and leave
/// the flush to somebody else, and by one that wants each of its writes durable. They keep apart,
/// for the log puts a plain write behind a later FUA write of the same sector.
const PLAIN: [Range<usize>; 2] = [0..1536, 1536..3072];
const DURABLE: Range<usize> = 3072..4096;
pub const REGION: usize = 4096;

const FLUSHES: usize = 20;
const DURABLE_WRITES: usize = 8;
/// Writes between two flushes, about: a log has no room for all that could be done meanwhile.
const WRITES: Range<u64> = 6..30;

/// Of a sector: 0 is what was there at first, zeroes.
type Version = u64;

/// Something was acknowledged as durable.
struct Ack {
    /// The oldest version of each sector that may be there from now on.
    durable: Vec<Version>,
    /// No later version had been issued by then.
    issued: Version,
}

/// What was done to the disk.
#[derive(Default)]
pub struct History {
    /// The versions of each sector, in order.
    issued: Vec<Vec<Version>>,
    /// As marked in the log, from mark 1 on.
    acks: Vec<Ack>,
    /// What was written with FUA, and each sector of it.
    fua: Vec<(Version, usize)>,
}

impl History {
    pub fn acks(&self) -> usize {
        self.acks.len()
    }
}

struct State {
    last: Version,
    /// The last version when the last flush began.
    flushed: Version,
    issued: Vec<Vec<Version>>,
    completed: Vec<Version>,
    durable: Vec<Version>,
    fua: Vec<(Version, usize)>,
}

struct Load<'a> {
    file: File,
    /// First sector of the region.
    start: u64,
    state: Mutex<State>,
    acks: Mutex<Vec<Ack>>,
    mark: &'a (dyn Fn(&str) -> Result<()> + Sync),
    /// Held during a flush, and a FUA write, which brings one. What has ended when a flush begins,
    /// the log has at the end of that one, though another may have begun later and ended earlier.
    flushing: Mutex<()>,
    done: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|err| err.into_inner())
}

/// Writes to the region that begins at sector `start` of `node` from three threads, and flushes;
/// `mark` is called with `ack-N` for each acknowledgement.
pub fn load(node: &str, start: u64, mark: &(dyn Fn(&str) -> Result<()> + Sync)) -> Result<History> {
    let load = Load {
        file: open_direct(node, true)?,
        start,
        state: Mutex::new(State {
            last: 0,
            flushed: 0,
            issued: vec![Vec::new(); REGION],
            completed: vec![0; REGION],
            durable: vec![0; REGION],
            fua: Vec::new(),
        }),
        acks: Mutex::default(),
        mark,
        flushing: Mutex::default(),
        done: AtomicBool::new(false),
    };
    thread::scope(|scope| {
        let writers = PLAIN.map(|part| scope.spawn(|| load.write_plain(part)));
        let durable = scope.spawn(|| load.write_durable());
        let flushed = load.flush();
        let durable = durable.join().expect("a writer");
        load.done.store(true, Ordering::Relaxed);
        let mut results = writers.map(|writer| writer.join().expect("a writer"));
        flushed.and(durable)?;
        results
            .iter_mut()
            .try_for_each(|result| std::mem::replace(result, Ok(())).context("a plain write"))
    })?;
    let state = load
        .state
        .into_inner()
        .unwrap_or_else(|err| err.into_inner());
    Ok(History {
        issued: state.issued,
        acks: load
            .acks
            .into_inner()
            .unwrap_or_else(|err| err.into_inner()),
        fua: state.fua,
    })
}

impl Load<'_> {
    /// Writes somewhere in `part`; gives the version and where.
    fn write(
        &self,
        part: &Range<usize>,
        rng: &mut Rng,
        flags: i32,
    ) -> Result<(Version, Range<usize>)> {
        let longest = [1, 4, 16, 64][rng.usize(..4)];
        let len = rng.usize(1..=longest);
        let at = rng.usize(part.start..=part.end - len);
        let sectors = at..at + len;
        let version = {
            let mut state = lock(&self.state);
            state.last += 1;
            let version = state.last;
            for sector in sectors.clone() {
                state.issued[sector].push(version);
            }
            version
        };
        let mut data = Aligned::new(len * SECTOR);
        for (sector, bytes) in sectors.clone().zip(data.chunks_mut(SECTOR)) {
            bytes.copy_from_slice(&content(sector, version));
        }
        let byte = (self.start + at as u64) * SECTOR as u64;
        let written = write_flags(&self.file, &data, byte, flags)
            .with_context(|| format!("write of {len} sectors at {at}"))?;
        ensure!(written == data.len(), "a short write: {written}");
        Ok((version, sectors))
    }

    fn write_plain(&self, part: Range<usize>) -> Result<()> {
        let mut rng = Rng::with_seed(part.start as u64);
        while !self.done.load(Ordering::Relaxed) {
            let state = lock(&self.state);
            if state.last >= state.flushed + WRITES.end {
                drop(state);
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            drop(state);
            let (version, sectors) = self.write(&part, &mut rng, 0)?;
            lock(&self.state).completed[sectors].fill(version);
        }
        Ok(())
    }

    /// RWF_DSYNC is FUA, and a flush behind it.
    fn write_durable(&self) -> Result<()> {
        let mut rng = Rng::with_seed(3);
        for _ in 0..DURABLE_WRITES {
            let (version, sectors) = {
                let _flushing = lock(&self.flushing);
                self.write(&DURABLE, &mut rng, libc::RWF_DSYNC)?
            };
            let written = sectors.clone().map(|sector| (version, sector));
            lock(&self.state).fua.extend(written);
            self.acknowledge(|durable| durable[sectors].fill(version))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        for _ in 0..FLUSHES {
            // Not for ever: a writer may have failed.
            for _ in 0..1000 {
                let state = lock(&self.state);
                if state.last >= state.flushed + WRITES.start {
                    break;
                }
                drop(state);
                thread::sleep(Duration::from_millis(1));
            }
            let completed = {
                let mut state = lock(&self.state);
                state.flushed = state.last;
                state.completed.clone()
            };
            {
                let _flushing = lock(&self.flushing);
                self.file.sync_data().context("flush")?;
            }
            self.acknowledge(|durable| {
                for (durable, completed) in durable.iter_mut().zip(completed) {
                    *durable = completed.max(*durable);
                }
            })?;
        }
        Ok(())
    }

    fn acknowledge(&self, what: impl FnOnce(&mut [Version])) -> Result<()> {
        let mut acks = lock(&self.acks);
        let durable = {
            let mut state = lock(&self.state);
            what(&mut state.durable);
            state.durable.clone()
        };
        (self.mark)(&format!("ack-{}", acks.len() + 1))?;
        let issued = lock(&self.state).last;
        acks.push(Ack { durable, issued });
        Ok(())
    }
}

fn content(sector: usize, version: Version) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&(sector as u64).to_le_bytes());
    bytes[16..].copy_from_slice(noise(version as usize * 8191 + sector * 4099, SECTOR - 16));
    bytes
}

/// The sector of the region that these bytes say they are, and their version; none if they are no
/// whole version of any.
pub fn identify(bytes: &[u8]) -> Option<(usize, Version)> {
    let word = |at: usize| {
        bytes[at..at + 8]
            .iter()
            .rev()
            .fold(0, |n, b| n << 8 | u64::from(*b))
    };
    let (version, sector) = (word(0), word(8) as usize);
    (sector < REGION && bytes == content(sector, version)).then_some((sector, version))
}

/// A disk that comes back after a power cut, beside its history.
pub struct Judge<'a> {
    history: &'a History,
    /// Of each sector of the region; none where there is neither the start nor a whole version.
    now: Vec<Option<Version>>,
    /// Acknowledgements before the power cut.
    acks: usize,
    fua: HashSet<(Version, usize)>,
}

impl<'a> Judge<'a> {
    pub fn new(history: &'a History) -> Judge<'a> {
        Judge {
            history,
            now: vec![Some(0); REGION],
            acks: 0,
            fua: HashSet::new(),
        }
    }

    /// A sector of the region reads like this now.
    pub fn put(&mut self, sector: usize, bytes: &[u8], fua: bool) {
        let version = match identify(bytes) {
            Some((is, version)) if is == sector => Some(version),
            None if bytes.iter().all(|byte| *byte == 0) => Some(0),
            _ => None,
        };
        self.now[sector] = version;
        if let (true, Some(version)) = (fua, version) {
            self.fua.insert((version, sector));
        }
    }

    /// A mark of the log.
    pub fn mark(&mut self, text: &str) -> Result<()> {
        if let Some(number) = text.strip_prefix("ack-") {
            self.acks = number.parse()?;
            ensure!(self.acks <= self.history.acks(), "an unknown mark `{text}`");
        }
        Ok(())
    }

    /// May the version `now` of `sector` be there?
    pub fn may_be(&self, sector: usize, now: Version) -> bool {
        let History { issued, acks, .. } = self.history;
        let floor = self
            .acks
            .checked_sub(1)
            .map_or(0, |ack| acks[ack].durable[sector]);
        let ceiling = acks.get(self.acks).map_or(Version::MAX, |ack| ack.issued);
        (floor..=ceiling).contains(&now) && (now == 0 || issued[sector].binary_search(&now).is_ok())
    }

    /// Everything that was acknowledged is there, and nothing that was never written.
    pub fn check(&self, sectors: impl IntoIterator<Item = usize>) -> Result<()> {
        for sector in sectors {
            let Some(now) = self.now[sector] else {
                bail!("sector {sector} holds what was never written there");
            };
            ensure!(
                self.may_be(sector, now),
                "after acknowledgement {}, sector {sector} holds version {now} of {:?}",
                self.acks,
                self.history.issued[sector]
            );
        }
        Ok(())
    }

    /// Every write that asked for it was FUA on its disk, or on each of those it was cut for.
    pub fn check_fua(judges: &[Judge<'_>]) -> Result<()> {
        let Some(history) = judges.first().map(|judge| judge.history) else {
            bail!("no log");
        };
        for write @ (version, sector) in &history.fua {
            ensure!(
                judges.iter().any(|judge| judge.fua.contains(write)),
                "write {version} has lost its FUA on the way to sector {sector}"
            );
        }
        Ok(())
    }
}
