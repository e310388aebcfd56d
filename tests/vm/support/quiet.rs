// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting what a test does, and nobody else.

use anyhow::Result;

use super::{sh, Counters, Ubd};

/// While it lives, udev does not look at disks that somebody has closed.
pub struct Quiet;

impl Quiet {
    pub fn udev() -> Result<Quiet> {
        sh("udevadm settle --timeout=60; udevadm control --stop-exec-queue")?;
        Ok(Quiet)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = sh("udevadm control --start-exec-queue; udevadm settle --timeout=60");
    }
}

/// By how much the counters of `ubd` grow while `body` runs.
pub fn growth(ubd: &Ubd, body: impl FnOnce() -> Result<()>) -> Result<Counters> {
    let before = ubd.counters()?;
    body()?;
    Ok(ubd.counters()?.since(&before))
}
