// SPDX-License-Identifier: MIT OR Apache-2.0
//! fio, always with the same seed over the same range.

use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::backing::RANGE_MIB;
use crate::plan::Job;
use crate::shell::sh;

/// What a run did.
pub struct Done {
    pub ios: u64,
    /// Of the clock, per I/O; its rounding to milliseconds is the error.
    pub ns_per_io: f64,
}

/// The command line without its end: past `node`, as `job` says.
fn words(node: &str, job: &Job) -> String {
    format!(
        "fio --output-format=json --name=bench --filename={node} --rw={rw} --bs={bs} \
         --ioengine={engine} --iodepth={qd} --direct=1 --size={RANGE_MIB}m --norandommap \
         --randrepeat=1 --random_generator=lfsr --disk_util=0",
        rw = job.rw,
        bs = job.bs,
        engine = job.engine,
        qd = job.qd,
    )
}

/// Does the I/Os of a job.
pub fn run(node: &str, job: &Job) -> Result<Done> {
    let ios = job.ios;
    let done = report(&format!(
        "{} --io_size=100g --number_ios={ios}",
        words(node, job)
    ))?;
    ensure!(done.ios >= ios, "fio did {} of {ios} I/Os", done.ios);
    Ok(done)
}

/// For so many seconds, in as many processes; I/Os of all together.
pub fn timed(node: &str, job: &Job, seconds: u32, processes: u32) -> Result<u64> {
    let line = format!(
        "{} --time_based --runtime={seconds} --numjobs={processes} --group_reporting \
         --cpus_allowed=0-{} --cpus_allowed_policy=split",
        words(node, job),
        processes - 1
    );
    Ok(report(&line)?.ios)
}

/// Until it is killed.
pub fn endless(node: &str, job: &Job) -> Result<Child> {
    let line = format!("exec {} --time_based --runtime=1d", words(node, job));
    Command::new("bash")
        .args(["-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to run fio")
}

fn report(line: &str) -> Result<Done> {
    let out = sh(line)?;
    // Notes may precede the JSON.
    let json = out.find('{').map_or("", |at| &out[at..]);
    let report: Value = serde_json::from_str(json).context("failed to understand fio's report")?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "fio reports error {}", job["error"]);
    let field = |kind: &str, name: &str| job[kind][name].as_u64().unwrap_or(0);
    let ios = field("read", "total_ios") + field("write", "total_ios");
    let ms = field("read", "runtime").max(field("write", "runtime"));
    ensure!(ios > 0 && ms > 0, "fio did nothing");
    Ok(Done {
        ios,
        ns_per_io: ms as f64 * 1e6 / ios as f64,
    })
}
