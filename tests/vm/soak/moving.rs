// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clusters that move under verified load, by a daemon that at last is killed or ends.

use std::time::Instant;

use anyhow::{ensure, Context, Result};

use super::events::PATIENCE;
use super::model::tally;
use super::stage::Worker;
use crate::cluster::{fio_pass, SlowWrites};
use crate::support::io::read_direct;
use crate::support::{sh, wait_for, Background, Ubd};

/// Where the daemon says which device it has.
const SAID: &str = "/tmp/soak-relocate";

pub fn lives(worker: &mut Worker) -> Result<()> {
    while worker.stage.goes_on() {
        live(worker)?;
        worker.stage.count("devices whose clusters move", 1);
    }
    Ok(())
}

fn live(worker: &mut Worker) -> Result<()> {
    worker.does("make a cluster map");
    let disk = SlowWrites::new(worker.rng.u32(0..4))?;
    sh(format!("rm -f {SAID}"))?;
    let mut daemon = Background::start(format!("exec relocate {} > {SAID}", disk.node()))?;
    let said = || std::fs::read_to_string(SAID).unwrap_or_default();
    wait_for("the relocating daemon", PATIENCE, || {
        said().ends_with('\n') || !daemon.is_running()
    })?;
    let node = said().trim_end().to_owned();
    let Some(id) = node
        .strip_prefix("/dev/ubdb")
        .and_then(|id| id.parse().ok())
    else {
        let failed = daemon.finish();
        return failed.map(drop).context("it said no device");
    };
    let ubd = Ubd::adopt(id);
    sh("settle")?;
    let end = Instant::now() + worker.span();
    loop {
        worker.event("passes of fio over moving clusters", |rng| {
            fio_pass(&node, rng.u64(..1 << 30)).map(drop)
        })?;
        if Instant::now() >= end {
            break;
        }
    }
    let count = ubd.counters()?;
    ensure!(
        count["fences"] > 0,
        "nothing has moved: {}",
        count.summary()
    );
    ensure!(count["bad"] + count["error"] == 0, "{}", count.summary());
    tally(worker, &ubd)?;
    worker.stage.count("clusters moved", count["fences"]);
    if worker.rng.bool() {
        worker.event("kill a daemon that has the map", |_| {
            drop(daemon);
            wait_for("I/O to fail without a map", PATIENCE, || {
                read_direct(&node, 0, 4096).is_err()
            })
        })?;
        return ubd.del();
    }
    worker.does("delete the device");
    ubd.del()?;
    daemon.finish().context("the relocating daemon").map(drop)
}
