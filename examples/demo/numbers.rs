// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures: what a device did for a workload, and the table of all.

use anyhow::{ensure, Result};
use serde::{Deserialize, Serialize};
use ubd_bpf::sysfs::Stats;

use crate::device::Device;
use crate::tell::number;

/// A line of the table.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub workload: String,
    pub path: String,
    pub ios: u64,
    /// From 0 to 1; none for what is not a ubd device.
    pub hit_rate: Option<f64>,
    pub wakeups: Option<u64>,
    pub instructions: Option<f64>,
}

/// What a device and its daemon had done at one moment.
pub struct Mark {
    stats: Stats,
    wakeups: u64,
}

/// What they did between two moments.
pub struct Use {
    pub mapped: u64,
    pub declined: u64,
    pub wakeups: u64,
}

impl Mark {
    pub fn of(device: &Device) -> Result<Mark> {
        Ok(Mark {
            stats: device.stats()?,
            wakeups: device.daemon_wakeups()?,
        })
    }

    /// What was done since. Fails if the driver refused a verdict or a program failed an I/O.
    pub fn since(&self, device: &Device) -> Result<Use> {
        let now = Mark::of(device)?;
        let (old, new) = (&self.stats, &now.stats);
        ensure!(
            (new.bad, new.error) == (old.bad, old.error),
            "the device counts {} bad verdicts and {} errors",
            new.bad,
            new.error
        );
        Ok(Use {
            mapped: new.mapped + new.zero - old.mapped - old.zero,
            declined: new.declined - old.declined,
            wakeups: now.wakeups - self.wakeups,
        })
    }
}

impl Use {
    pub fn ios(&self) -> u64 {
        self.mapped + self.declined
    }

    pub fn hit_rate(&self) -> f64 {
        self.mapped as f64 / self.ios() as f64
    }

    /// With the fast path: nothing was declined and the daemon slept. Without: the daemon did it
    /// all, but for flushes when nothing had been written.
    pub fn check(&self, fast: bool) -> Result<()> {
        let Use {
            mapped,
            declined,
            wakeups,
        } = self;
        let said = format!("{mapped} I/Os mapped, {declined} declined, {wakeups} wake-ups");
        if fast {
            ensure!(*mapped > 0, "nothing was mapped: {said}");
            ensure!(*declined == 0, "the program declined I/O: {said}");
            ensure!(*wakeups <= 2, "the daemon did not sleep: {said}");
        } else {
            ensure!(self.hit_rate() < 0.01, "the daemon was bypassed: {said}");
            ensure!(*wakeups > 100, "the daemon slept: {said}");
        }
        Ok(())
    }

    pub fn row(&self, workload: &str, path: &str) -> Row {
        Row {
            workload: workload.to_owned(),
            path: path.to_owned(),
            ios: self.ios(),
            hit_rate: Some(self.hit_rate()),
            wakeups: Some(self.wakeups),
            instructions: None,
        }
    }

    pub fn summary(&self) -> String {
        format!(
            "{} I/Os, {} in the kernel, {} daemon wake-ups",
            number(self.ios()),
            percent(self.hit_rate()),
            number(self.wakeups)
        )
    }
}

fn percent(share: f64) -> String {
    // 99.96 % must not read as all.
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

pub fn print_table(rows: &[Row]) {
    println!(
        "  {:<25} {:<26} {:>8} {:>9} {:>10} {:>13}",
        "", "", "", "in the", "daemon", "instructions"
    );
    println!(
        "  {:<25} {:<26} {:>8} {:>9} {:>10} {:>13}",
        "workload", "path", "I/Os", "kernel", "wake-ups", "per I/O"
    );
    let dash = || "-".to_owned();
    let mut last = "";
    for row in rows {
        let workload = if row.workload == last {
            ""
        } else {
            println!("  {}", "-".repeat(96));
            &row.workload
        };
        last = &row.workload;
        println!(
            "  {:<25} {:<26} {:>8} {:>9} {:>10} {:>13}",
            workload,
            row.path,
            number(row.ios),
            row.hit_rate.map_or_else(dash, percent),
            row.wakeups.map_or_else(dash, number),
            // Three digits are what fio's clock is good for.
            row.instructions
                .map_or_else(dash, |n| number((n / 10.0).round() as u64 * 10)),
        );
    }
}
