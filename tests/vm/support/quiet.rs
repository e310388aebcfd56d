// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting what a test does, and nobody else.

use std::time::Duration;

use anyhow::Result;

use super::{sh, Counters, Ubd};

/// While it lives, udev does not look at disks that somebody has closed.
pub struct Quiet;

impl Quiet {
    pub fn udev() -> Result<Quiet> {
        sh("settle")?;
        // From here on it is started again, also where it has stopped and could not say so in time.
        let quiet = Quiet;
        control("stop")?;
        Ok(quiet)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nobody else would start it again, but for settling, which replaces who stands still.
        let _ = control("start");
        let _ = sh("settle");
    }
}

/// On a busy machine an answer may take too long, or not come.
fn control(what: &str) -> Result<()> {
    sh(format!(
        "for again in 1 2 3 4 5; do udevadm control --{what}-exec-queue && exit; done; exit 1"
    ))
    .map(drop)
}

/// By how much the counters of `ubd` grow while `body` runs. Whoever closes a disk that was written
/// to makes udev read its partition table.
pub fn growth(ubd: &Ubd, body: impl FnOnce() -> Result<()>) -> Result<Counters> {
    let before = at_rest(ubd)?;
    body()?;
    Ok(at_rest(ubd)?.since(&before))
}

/// The counters, once they stand still: they are read one after the other.
fn at_rest(ubd: &Ubd) -> Result<Counters> {
    let mut last = ubd.counters()?;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = ubd.counters()?;
        if now == last {
            return Ok(now);
        }
        last = now;
    }
}
