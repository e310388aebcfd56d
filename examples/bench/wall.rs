// SPDX-License-Identifier: MIT OR Apache-2.0
//! I/Os a second with one to four CPUs. Under emulation they say nothing by themselves; their
//! ratios show whether CPUs get into each other's way.

use std::fs;

use anyhow::{Context, Result};
use serde_json::json;

use crate::backing::{Backing, Kind};
use crate::fio;
use crate::path::Path;
use crate::plan::Job;
use crate::shell::sh;

const OUT: &str = "/ubd/out/wall.json";
const PATHS: [&str; 3] = ["raw", "dm-linear", "mapped"];

/// Runs each path for so many seconds with every number of CPUs that the machine has.
pub fn run(seconds: u32) -> Result<()> {
    let backing = Backing::make(Kind::Block)?;
    let cpus: u32 = sh("nproc")?.parse().context("failed to count CPUs")?;
    let mut rows = Vec::new();
    for online in 1..=cpus {
        for cpu in 1..cpus {
            let on = u32::from(cpu < online);
            sh(format!(
                "echo {on} > /sys/devices/system/cpu/cpu{cpu}/online"
            ))?;
        }
        let mut row = json!({ "cpus": online });
        for name in PATHS {
            let path = Path::open(name, &backing)?;
            let ios = fio::timed(&path.node, &job(name), seconds, online)?;
            row[name] = json!(ios / u64::from(seconds));
        }
        rows.push(row);
    }
    fs::write(OUT, json!(rows).to_string()).with_context(|| format!("failed to write `{OUT}`"))
}

fn job(path: &str) -> Job {
    Job {
        index: 0,
        path: path.into(),
        rw: "randread".into(),
        bs: 4096,
        engine: "io_uring".into(),
        qd: 1,
        ios: 0,
    }
}
