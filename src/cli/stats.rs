// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ubd stats`: what became of the I/O of a device.

use super::output;
use super::table::{self, Align};
use crate::control::{block_node, Control};
use crate::error::{Kind, Result};
use crate::sysfs::{self, Disk, OpCounts, Stats};
use serde_json::{json, Value};
use std::thread;
use std::time::Duration;

/// Show what became of the I/O of block devices
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Devices, as `3` or `/dev/ubdb3` [default: all]
    #[arg(value_name = "DEV", value_parser = sysfs::parse_device)]
    devices: Vec<u32>,
    /// Print JSON
    #[arg(short = 'J', long, visible_short_alias = 'j')]
    json: bool,
    /// Go on, with what came in each interval of this many seconds; as JSON, the counters then
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
}

/// One device at one time.
struct Sample {
    id: u32,
    program: Option<String>,
    stats: Stats,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    // Without the driver there are no devices either, but that is another story.
    Control::open()?;
    let mut samples = sample(&args.devices)?;
    match args.watch {
        None if args.json => output::document("stats", json(&samples)),
        None => output::text(&samples.iter().map(block).collect::<Vec<_>>().join("\n")),
        Some(seconds) => loop {
            thread::sleep(Duration::from_secs(seconds.into()));
            let before = std::mem::replace(&mut samples, sample(&args.devices)?);
            if args.json {
                output::document("stats", json(&samples))?;
                continue;
            }
            for now in &samples {
                let Some(old) = before.iter().find(|old| old.id == now.id) else {
                    continue;
                };
                output::text(&rates(now, &old.stats, seconds.into()))?;
            }
        },
    }
}

fn sample(asked: &[u32]) -> Result<Vec<Sample>> {
    let ids = match asked {
        [] => sysfs::device_ids()?,
        asked => asked.to_vec(),
    };
    let mut samples = Vec::new();
    for id in ids {
        let disk = Disk::new(id);
        match disk.stats() {
            // A device that does not run has nothing to count.
            Err(err) if err.kind() == Kind::NotFound && asked.is_empty() => {}
            stats => samples.push(Sample {
                id,
                program: disk.program().ok().flatten(),
                stats: stats?,
            }),
        }
    }
    Ok(samples)
}

fn json(samples: &[Sample]) -> Value {
    samples
        .iter()
        .map(|sample| {
            json!({
                "id": sample.id,
                "name": block_node(sample.id),
                "program": sample.program,
                "hit_rate": sample.stats.hit_rate(),
                "counters": sample.stats,
            })
        })
        .collect()
}

/// The counters of a device for people.
fn block(sample: &Sample) -> String {
    const COLUMNS: [(&str, Align); 6] = [
        ("  BIOS", Align::Left),
        ("MAPPED", Align::Right),
        ("ZERO", Align::Right),
        ("DECLINED", Align::Right),
        ("ERROR", Align::Right),
        ("BAD", Align::Right),
    ];
    let stats = &sample.stats;
    let row = |name: &str, counts: [Option<u64>; 5]| {
        let cells = counts.map(|count| count.map(|n| n.to_string()).unwrap_or_default());
        std::iter::once(format!("  {name}")).chain(cells).collect()
    };
    let of_op = |name, op: &OpCounts| {
        let counts = [op.mapped, op.zero, op.declined, op.error, op.bad];
        row(name, counts.map(Some))
    };
    let flush = [
        Some(stats.flush.mapped),
        None,
        Some(stats.flush.declined),
        None,
        None,
    ];
    let all = [
        stats.mapped,
        stats.zero,
        stats.declined,
        stats.error,
        stats.bad,
    ];
    let rows: Vec<Vec<String>> = vec![
        of_op("read", &stats.read),
        of_op("write", &stats.write),
        row("flush", flush),
        of_op("discard", &stats.discard),
        of_op("write-zeroes", &stats.write_zeroes),
        row("all", all.map(Some)),
    ];
    format!(
        "{}: {}, in-kernel hit rate {}\n{}  forwarded {} requests, splits {}, eagain {}, by the file worker {}, flushes of slots {}, of the daemon {}\n",
        block_node(sample.id),
        match &sample.program {
            Some(program) => format!("program {program}"),
            None => "no program".to_owned(),
        },
        percent(stats.hit_rate()),
        table::aligned(&COLUMNS, &rows, true),
        stats.forwarded,
        stats.splits,
        stats.eagain,
        stats.file_worker,
        stats.flush_slots,
        stats.flush_daemon,
    )
}

/// What came since `old`, a second.
fn rates(now: &Sample, old: &Stats, seconds: u64) -> String {
    // A device that was added anew starts counting anew.
    let since = |count: fn(&Stats) -> u64| count(&now.stats).saturating_sub(count(old));
    let delta = Stats {
        mapped: since(|stats| stats.mapped),
        zero: since(|stats| stats.zero),
        declined: since(|stats| stats.declined),
        ..Stats::default()
    };
    format!(
        "{}: {} mapped/s, {} zero/s, {} declined/s, in-kernel hit rate {}\n",
        block_node(now.id),
        delta.mapped / seconds,
        delta.zero / seconds,
        delta.declined / seconds,
        percent(delta.hit_rate()),
    )
}

/// Rounded down, so that 100 % means all.
fn percent(rate: Option<f64>) -> String {
    match rate {
        Some(rate) => format!("{:.2} %", (rate * 10_000.0).floor() / 100.0),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mapped: u64, declined: u64) -> Sample {
        let read = OpCounts {
            mapped,
            declined,
            ..OpCounts::default()
        };
        Sample {
            id: 0,
            program: Some("linear".into()),
            stats: Stats {
                read,
                mapped,
                declined,
                ..Stats::default()
            },
        }
    }

    #[test]
    fn a_hundred_percent_means_all() {
        assert_eq!(percent(Some(1.0)), "100.00 %");
        assert_eq!(percent(Some(0.999_99)), "99.99 %");
        assert_eq!(percent(None), "-");
    }

    #[test]
    fn people_see_the_hit_rate_and_each_kind() {
        let text = block(&sample(3, 1));
        assert!(text.starts_with("/dev/ubdb0: program linear, in-kernel hit rate 75.00 %\n"));
        assert!(text.lines().any(|line| line
            .split_whitespace()
            .eq(["read", "3", "0", "1", "0", "0"])));
    }

    #[test]
    fn a_watch_shows_the_interval() {
        let text = rates(&sample(300, 100), &sample(100, 100).stats, 2);
        assert_eq!(
            text,
            "/dev/ubdb0: 100 mapped/s, 0 zero/s, 0 declined/s, in-kernel hit rate 100.00 %\n"
        );
    }
}
