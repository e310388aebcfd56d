// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody who kills daemons at random, and starts new ones.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;

use super::kill_daemon;
use crate::support::{slowness, Standby, Ubd};

/// How often a daemon dies in one of the tests. `UBD_LONG=1` is for a night.
pub fn cycles() -> u32 {
    match std::env::var_os("UBD_LONG") {
        Some(_) => 200,
        None => (8 / slowness()).max(3),
    }
}

/// Kills the daemon of `ubd` and starts another, so many times, while `load` runs again and again
/// with the number of the run. Gives the number of runs.
pub fn kill_under(
    ubd: &Ubd,
    state: &str,
    times: u32,
    mut load: impl FnMut(u32, &AtomicBool) -> Result<()>,
) -> Result<u32> {
    let (done, killed) = (AtomicBool::new(false), AtomicU32::new(0));
    let standby = Standby::start()?;
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let result = kill(ubd, &standby, state, times, &done, &killed);
            done.store(true, Ordering::SeqCst);
            result
        });
        let mut runs = 0;
        let loaded = loop {
            if let Err(err) = load(runs, &done) {
                break Err(err);
            }
            runs += 1;
            if done.load(Ordering::SeqCst) {
                break Ok(());
            }
        };
        done.store(true, Ordering::SeqCst);
        let killer = killer.join().expect("the killer");
        loaded.with_context(|| {
            format!(
                "run {runs}, with {} daemons dead",
                killed.load(Ordering::SeqCst)
            )
        })?;
        killer?;
        ensure!(
            killed.load(Ordering::SeqCst) == times,
            "the load ended before the last daemon was killed"
        );
        Ok(runs)
    })
}

fn kill(
    ubd: &Ubd,
    standby: &Standby,
    state: &str,
    times: u32,
    done: &AtomicBool,
    killed: &AtomicU32,
) -> Result<()> {
    let mut rng = Rng::with_seed(u64::from(times));
    for _ in 0..times {
        if done.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Sometimes a daemon that has hardly begun.
        thread::sleep(Duration::from_millis(rng.u64(0..250)));
        kill_daemon(ubd, state)?;
        killed.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(rng.u64(0..50)));
        recover_in_time(ubd, standby)?;
    }
    Ok(())
}

fn recover_in_time(ubd: &Ubd, standby: &Standby) -> Result<()> {
    let start = Instant::now();
    standby.sh(&format!("ubd recover {}", ubd.id()))?;
    if start.elapsed() > super::SOON * slowness() {
        bail!("`ubd recover` took {:?}", start.elapsed());
    }
    Ok(())
}
