// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of fio.

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::shell::sh;

/// What a run of fio did.
pub struct Fio {
    pub ios: u64,
    /// Of the clock, per I/O.
    pub ns_per_io: f64,
}

/// Runs one fio job of direct 4 KiB I/O through io_uring; `options` are fio's own.
pub fn fio(path: &str, options: &str) -> Result<Fio> {
    let out = sh(format!(
        "fio --output-format=json --name=demo --filename={path} --bs=4k --direct=1 \
         --ioengine=io_uring --randrepeat=1 {options}"
    ))?;
    // Notes may precede the JSON.
    let json = out.find('{').map_or("", |at| &out[at..]);
    let report: Value = serde_json::from_str(json).context("failed to understand fio's report")?;
    let job = &report["jobs"][0];
    ensure!(
        job["error"] == 0,
        "fio on `{path}` reports error {}",
        job["error"]
    );
    let field = |kind: &str, name: &str| job[kind][name].as_u64().unwrap_or(0);
    let ios = field("read", "total_ios") + field("write", "total_ios");
    let ms = field("read", "runtime").max(field("write", "runtime"));
    ensure!(ios > 0 && ms > 0, "fio on `{path}` did nothing");
    Ok(Fio {
        ios,
        ns_per_io: ms as f64 * 1e6 / ios as f64,
    })
}
