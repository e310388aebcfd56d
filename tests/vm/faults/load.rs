// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers and writers who know what they may meet while a disk goes bad and good again.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::time::Duration;
use std::{io, thread};

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;

use super::flaky::Fault;
use crate::support::backing::noise;
use crate::support::io::{open_direct, Aligned};

const SECTOR: usize = 512;
const THREADS: usize = 3;

/// What a sector may hold: what was written last, and what it was before, if that write failed.
type Sector = Vec<[u8; SECTOR]>;

/// What the disk does; none while that is being changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    change: u32,
    fault: Option<Option<Fault>>,
}

/// I/O on all of a device by several threads, each with a part of it for itself.
pub struct Load<'a> {
    file: File,
    /// Sectors of the device that are bad when told to.
    bad: &'a [Range<u64>],
    state: RwLock<State>,
    done: AtomicBool,
}

/// How many operations there were.
#[derive(Debug, Default)]
pub struct Done {
    pub good: u64,
    pub failed: u64,
    pub forgotten: u64,
}

impl<'a> Load<'a> {
    /// `bad` is in sectors of `node`.
    pub fn new(node: &str, bad: &'a [Range<u64>]) -> Result<Load<'a>> {
        Ok(Load {
            file: open_direct(node, true)?,
            bad,
            state: RwLock::new(State {
                change: 0,
                fault: Some(None),
            }),
            done: AtomicBool::new(false),
        })
    }

    /// Runs the load over `bytes`, what the device holds, while `act` changes the disk by
    /// [`Self::change`] and leaves it good. Then everything must be in order again.
    pub fn run(&self, bytes: &[u8], act: impl FnOnce() -> Result<()>) -> Result<Done> {
        let part = bytes.len() / SECTOR / THREADS;
        let mut all = Done::default();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let start = number * part;
                    let sectors = bytes[start * SECTOR..(start + part) * SECTOR]
                        .chunks_exact(SECTOR)
                        .map(|bytes| vec![bytes.try_into().expect("a sector")])
                        .collect();
                    let part = Part {
                        load: self,
                        start,
                        sectors,
                        done: Done::default(),
                    };
                    scope.spawn(move || part.run())
                })
                .collect();
            let acted = act();
            self.done.store(true, Ordering::Relaxed);
            for thread in threads {
                let done = thread.join().expect("a thread of the load")?;
                all.good += done.good;
                all.failed += done.failed;
                all.forgotten += done.forgotten;
            }
            acted
        })?;
        self.file.sync_all().context("the last flush")?;
        Ok(all)
    }

    /// Lets `change` make the disk do `fault`.
    pub fn change(&self, fault: Option<Fault>, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let set = |fault| {
            let mut state = self.state.write().unwrap_or_else(|err| err.into_inner());
            state.change += 1;
            state.fault = fault;
        };
        set(None);
        change()?;
        set(Some(fault));
        Ok(())
    }

    fn state(&self) -> State {
        let guard: RwLockReadGuard<'_, State> =
            self.state.read().unwrap_or_else(|err| err.into_inner());
        *guard
    }

    fn is_bad(&self, sector: usize) -> bool {
        self.bad.iter().any(|bad| bad.contains(&(sector as u64)))
    }
}

struct Part<'a> {
    load: &'a Load<'a>,
    /// First sector.
    start: usize,
    sectors: Vec<Sector>,
    done: Done,
}

impl Part<'_> {
    fn run(mut self) -> Result<Done> {
        let mut rng = Rng::with_seed(self.start as u64);
        while !self.load.done.load(Ordering::Relaxed) {
            let len = rng.usize(1..=32);
            let at = rng.usize(0..=self.sectors.len() - len);
            // Half of them where it hurts.
            let at = match self.load.bad.get(rng.usize(..2 * self.load.bad.len())) {
                Some(bad) => (bad.start as usize + rng.usize(..64))
                    .checked_sub(self.start + 16)
                    .filter(|at| at + len <= self.sectors.len())
                    .unwrap_or(at),
                None => at,
            };
            // Whoever changes the disk wants a CPU, too.
            thread::sleep(Duration::from_millis(1));
            let write = rng.bool();
            let seed = rng.usize(..);
            self.step(at, len, write.then_some(seed))
                .with_context(|| format!("{len} sectors at {}", self.start + at))?;
        }
        // The disk is good again.
        for at in (0..self.sectors.len()).step_by(128) {
            let len = 128.min(self.sectors.len() - at);
            self.step(at, len, None).context("at the end")?;
            self.step(at, len, Some(at * 4099)).context("at the end")?;
            self.step(at, len, None).context("written at the end")?;
        }
        Ok(self.done)
    }

    /// A read, or a write of what a seed makes.
    fn step(&mut self, at: usize, len: usize, write: Option<usize>) -> Result<()> {
        let byte = ((self.start + at) * SECTOR) as u64;
        let mut buffer = Aligned::new(len * SECTOR);
        if let Some(seed) = write {
            buffer.copy_from_slice(noise(seed, len * SECTOR));
        }
        let before = self.load.state();
        let result = match write {
            Some(_) => self.load.file.write_all_at(&buffer, byte),
            None => self.load.file.read_exact_at(&mut buffer, byte),
        };
        let stable = before == self.load.state() && before.fault.is_some();
        let fault = before.fault.flatten();
        let what = if write.is_some() { "write" } else { "read" };
        let bad: Vec<bool> = (at..at + len)
            .map(|sector| self.load.is_bad(self.start + sector))
            .collect();
        let fails = fault.is_some_and(|fault| fault.fails(write.is_some()) && bad.contains(&true));
        self.judge(&result, stable.then_some(fails), bad.contains(&true))
            .with_context(|| format!("a {what} beside {fault:?}"))?;
        // Without a say of the state on what the disk made of it.
        let sure = stable && fault != Some(Fault::Forgets);
        for (number, is) in buffer.chunks_exact(SECTOR).enumerate() {
            let is: [u8; SECTOR] = is.try_into()?;
            let sector = &mut self.sectors[at + number];
            match (write, &result) {
                (Some(_), Ok(())) if sure || !bad[number] => *sector = vec![is],
                (Some(_), _) => sector.push(is),
                (None, Ok(())) => {
                    ensure!(
                        sector.contains(&is),
                        "sector {number} of a read holds what was never written there"
                    );
                    *sector = vec![is];
                }
                (None, Err(_)) => {}
            }
        }
        if write.is_some() && fault == Some(Fault::Forgets) && bad.contains(&true) {
            self.done.forgotten += 1;
        }
        Ok(())
    }

    /// `fails` says whether it must; none if either is right.
    fn judge(&mut self, result: &io::Result<()>, fails: Option<bool>, bad: bool) -> Result<()> {
        match result {
            Ok(()) => {
                ensure!(fails != Some(true), "it should have failed");
                self.done.good += 1;
            }
            Err(err) if err.raw_os_error() == Some(libc::EIO) => {
                ensure!(fails != Some(false) && bad, "it should not have failed");
                self.done.failed += 1;
            }
            Err(err) => bail!("another error: {err}"),
        }
        Ok(())
    }
}
