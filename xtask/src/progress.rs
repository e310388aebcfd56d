// SPDX-License-Identifier: MIT OR Apache-2.0
//! Visible progress: one line a step, with a spinner on a terminal and the time it took.
//! Everything goes to stderr; stdout belongs to the command that the user asked for.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Runs `work` while telling the user that `what` is going on.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let spinner = std::io::stderr().is_terminal().then(|| spinner(what));
    if spinner.is_none() {
        eprintln!("xtask: {what} ...");
    }
    let result = work();
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let end = if result.is_ok() { "done" } else { "failed" };
    eprintln!(
        "xtask: {what}: {end} ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    result
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
