// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a soak tells: a line a minute, and at the end what was done and what was wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::census::Census;
use super::stage::Stage;

pub struct Report {
    pub seed: u64,
    pub spent: Duration,
    pub counts: BTreeMap<String, u64>,
    pub before: Census,
    /// None: it was not as before.
    pub after: Option<Census>,
    pub failures: Vec<String>,
}

impl Report {
    pub fn print(&self, json: bool) {
        if json {
            let report = json!({
                "seed": self.seed,
                "seconds": self.spent.as_secs(),
                "counts": self.counts,
                "before": self.before.json(),
                "after": self.after.as_ref().map(Census::json),
                "failures": self.failures,
            });
            println!("{report}");
            return;
        }
        for (what, n) in &self.counts {
            println!("{n:>10}  {what}");
        }
        let seed = self.seed;
        match self.failures.len() {
            0 => println!(
                "{} s, seed {seed}: nothing was wrong, and there is of everything as much as before",
                self.spent.as_secs()
            ),
            n => println!(
                "{} s, seed {seed}: {n} FAILURES\n{}",
                self.spent.as_secs(),
                self.failures.join("\n")
            ),
        }
    }
}

/// The line of a minute.
pub fn minute(json: bool, minutes: u64, stage: &Stage) {
    let counts = stage.counts();
    let (name, doing, since) = stage.slowest();
    if json {
        let slowest = json!({ "worker": name, "doing": doing, "seconds": since.as_secs() });
        println!(
            "{}",
            json!({ "minute": minutes, "counts": counts, "slowest": slowest })
        );
        return;
    }
    // Not how much I/O, but what happened.
    let told: Vec<_> = counts
        .iter()
        .filter(|(what, _)| !what.starts_with("ios"))
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    println!(
        "minute {minutes}: {}; {name} is at `{doing}` for {} s",
        told.join(", "),
        since.as_secs()
    );
}
