// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that is not there. The first allocation of a command fails, then the second, and so on,
//! until the command gets by without: whichever it is, the caller has an error and nothing has
//! changed, or the command has done its work all the same.
//!
//! The kernel counts for one task at a time (`fail-nth`). ioctls and I/O run in the caller; what comes
//! by io_uring and may sleep, in a worker of the ring, which is a task of the same process.

pub mod commands;
pub mod io;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use io_uring::squeue::Flags;
use ubd_bpf::uapi::ublk;

use crate::support::raw::{ctrl_cmd, RawControl};
use crate::support::{is_long, sh, Skip};

const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// While it lives, allocations that may wait can fail, too, and do so without a word in the log.
struct Injection;

impl Injection {
    fn new() -> Result<Injection> {
        if !Path::new("/proc/self/fail-nth").exists() {
            bail!(Skip("the kernel has no fault injection".into()));
        }
        Injection::set("0", "N")?;
        // The kernel prints a stack of its own when it cannot make a cache, which is not for us to
        // mend, and looks like a complaint: that does not fail.
        if let Some((start, end)) = function("__kmem_cache_create_args") {
            Injection::spare(start, end)?;
        }
        Ok(Injection)
    }

    /// Nothing fails below a function with these addresses.
    fn spare(start: u64, end: u64) -> Result<()> {
        for kind in KINDS {
            sh(format!(
                "cd /sys/kernel/debug/{kind}; echo 32 > stacktrace-depth
                 printf '%#x' {start} > reject-start; printf '%#x' {end} > reject-end"
            ))?;
        }
        Ok(())
    }

    fn set(verbose: &str, spared: &str) -> Result<()> {
        for kind in KINDS {
            sh(format!(
                "cd /sys/kernel/debug/{kind}; echo {verbose} > verbose; echo {spared} > ignore-gfp-wait"
            ))?;
        }
        Ok(())
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        let _ = Injection::set("2", "Y");
        let _ = Injection::spare(0, 0);
    }
}

/// Where a function of the kernel begins and ends.
fn function(name: &str) -> Option<(u64, u64)> {
    let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
    let mut addresses: Vec<(u64, bool)> = symbols
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, words.nth(1)? == name))
        })
        .collect();
    addresses.sort_unstable();
    let start = addresses.iter().find(|(_, is)| *is)?.0;
    let next = addresses.iter().find(|(address, _)| *address > start)?;
    Some((start, next.0))
}

/// The counter of a task.
struct Counter(File);

impl Counter {
    /// Of the calling thread.
    fn own() -> Result<Counter> {
        Counter::open(Path::new("/proc/thread-self"))
    }

    fn open(task: &Path) -> Result<Counter> {
        let path = task.join("fail-nth");
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Ok(Counter(file.with_context(|| {
            format!("failed to open `{}`", path.display())
        })?))
    }

    /// The `n`th allocation from now on fails; none if 0.
    fn set(&self, n: u32) -> Result<()> {
        // One call, and nothing on the way but what it takes.
        let mut text = [0; 10];
        let digits = digits(n, &mut text);
        self.0
            .write_all_at(digits, 0)
            .context("failed to set fail-nth")
    }

    /// How many are left before one fails; 0 if one has.
    fn left(&self) -> Result<u32> {
        let mut text = [0; 12];
        let len = self.0.read_at(&mut text, 0)?;
        Ok(std::str::from_utf8(&text[..len])?.trim().parse()?)
    }
}

fn digits(mut n: u32, text: &mut [u8; 10]) -> &[u8] {
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &text[at..];
        }
    }
}

/// The counters of tasks whose name begins so, of process `pid`.
fn tasks(pid: &str, name: &str) -> Result<Vec<Counter>> {
    let mut counters = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        let is = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if is.starts_with(name) {
            // It may have ended.
            counters.extend(Counter::open(&path));
        }
    }
    Ok(counters)
}

/// What has become of a call of which one allocation was to fail.
struct Outcome {
    /// As the kernel gives it.
    result: i32,
    /// An allocation has failed.
    injected: bool,
}

/// Calls in this thread.
fn here(counter: &Counter, n: u32, call: impl FnOnce() -> i32) -> Result<Outcome> {
    counter.set(n)?;
    let result = call();
    let injected = counter.left()? == 0;
    counter.set(0)?;
    Ok(Outcome { result, injected })
}

/// A ring whose commands lose an allocation.
struct Ring {
    raw: RawControl,
    /// Commands in a row that have asked no counter.
    uncounted: u32,
}

impl Ring {
    fn open() -> Result<Ring> {
        Ok(Ring {
            raw: RawControl::open()?,
            uncounted: 0,
        })
    }

    /// Runs a command, whose `n`th allocation fails.
    fn run(&mut self, n: u32, op: u32, cmd: &ublk::CtrlCmd) -> Result<Outcome> {
        // So that a worker is there, and idle.
        let mut features = [0u64];
        let warm = ublk::CtrlCmd {
            addr: features.as_mut_ptr() as u64,
            len: 8,
            ..ctrl_cmd(u32::MAX)
        };
        let warmed = self
            .raw
            .run(ublk::U_CMD_GET_FEATURES, &warm, Flags::ASYNC)?;
        ensure!(warmed == 0, "GET_FEATURES gave {warmed}");
        std::thread::sleep(std::time::Duration::from_millis(2));
        let workers = tasks("self", "iou-wrk-")?;
        workers.iter().try_for_each(|worker| worker.set(n))?;
        let result = self.raw.run(op, cmd, Flags::ASYNC)?;
        let mut left = n;
        for worker in &workers {
            left = left.min(worker.left().unwrap_or(n));
            let _ = worker.set(0);
        }
        // Either a worker that was made just then has run it, or it needs no memory.
        self.uncounted = if left == n { self.uncounted + 1 } else { 0 };
        let more = left == 0 || (1..4).contains(&self.uncounted);
        if !more {
            self.uncounted = 0;
        }
        Ok(Outcome {
            result,
            injected: more,
        })
    }
}

/// The answers so far, for the report and for its judgement.
#[derive(Default)]
struct Seen {
    results: BTreeMap<i32, u32>,
    survived: u32,
    last: u32,
    /// Without a name, which takes memory, the kernel calls a new disk invalid.
    may_be_nameless: bool,
}

impl Seen {
    /// Notes an outcome; true while there may be more to fail.
    fn note(&mut self, n: u32, outcome: &Outcome) -> Result<bool> {
        ensure!(n < 20_000, "there is no end of allocations");
        self.last = n;
        if outcome.result < 0 {
            ensure!(
                outcome.injected,
                "allocation {n}: failed with {} for no reason",
                outcome.result
            );
            let errno = -outcome.result;
            ensure!(
                matches!(
                    errno,
                    libc::ENOMEM | libc::EIO | libc::EAGAIN | libc::ENFILE
                ) || errno == libc::EINVAL && self.may_be_nameless,
                "allocation {n}: error {errno} does not say what is wrong"
            );
            *self.results.entry(outcome.result).or_default() += 1;
        } else if outcome.injected {
            self.survived += 1;
        }
        Ok(outcome.injected)
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} allocations, errors {:?}, {} did not matter",
            self.last - 1,
            self.results,
            self.survived
        );
    }
}

/// Which allocation is next: each of the first ones, then, unless there is time, some.
fn next(n: u32) -> u32 {
    match n {
        _ if is_long() => n + 1,
        0..30 => n + 1,
        30..150 => n + 5,
        _ => n + 23,
    }
}
