// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plan, cell by cell. A cell that fails says why and the next one follows.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{json, Value};

use crate::backing::{Backing, Kind};
use crate::path::Path;
use crate::plan::{self, Job};

const RESULTS: &str = "/ubd/out/results.jsonl";

/// Measures every cell; jobs that follow each other on one path share it.
pub fn run(kind: Kind) -> Result<()> {
    let plan = plan::read()?;
    let backing = Backing::make(kind)?;
    let mut results =
        File::create(RESULTS).with_context(|| format!("failed to create `{RESULTS}`"))?;
    for jobs in plan.chunk_by(|a, b| a.path == b.path) {
        for line in on_path(&backing, jobs) {
            writeln!(results, "{line}").with_context(|| format!("failed to write `{RESULTS}`"))?;
        }
    }
    Ok(())
}

/// The results of jobs on one path, each as it comes.
fn on_path<'a>(backing: &Backing, jobs: &'a [Job]) -> Box<dyn Iterator<Item = Value> + 'a> {
    let path = match Path::open(&jobs[0].path, backing) {
        Ok(path) => path,
        Err(error) => {
            let reason = format!("{error:#}");
            return Box::new(
                jobs.iter()
                    .map(move |job| json!({ "index": job.index, "failed": reason })),
            );
        }
    };
    Box::new(jobs.iter().map(move |job| match path.measure(job) {
        Ok(done) => json!({ "index": job.index, "ios": done.ios, "insn": done.ns_per_io }),
        Err(error) => json!({ "index": job.index, "failed": format!("{error:#}") }),
    }))
}
