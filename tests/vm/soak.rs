// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once, for as long as one likes: `cargo xtask soak`. Workers make devices, use them
//! in ways that notice every wrong byte, let everything happen to them that may happen to a
//! device, and delete them; at the end there is as much of everything as at the start.

mod busy;
mod census;
mod events;
mod model;
mod moving;
mod pressure;
mod report;
mod shrinking;
mod stage;
mod tree;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use fastrand::Rng;

use crate::support::kernel_log::KernelLog;
use crate::support::{
    leftovers, module, seconds, sh, slowness, supervisor, Prog, RamDisk, Test, Ubd,
};
use census::Census;
use report::Report;
use stage::{Stage, Worker};

pub const TESTS: &[Test] = &[
    Test::new("soak/the_census_notices", notices),
    Test::new("soak/short", short),
];

/// As the first argument, asks for a soak instead of tests.
pub const FLAG: &str = "--soak";

/// Whoever does nothing new for so long hangs: longer than anybody's patience with a device.
const STANDSTILL: Duration = Duration::from_secs(300);

type Work = fn(&mut Worker) -> Result<()>;

const WORKERS: &[(&str, Work)] = &[
    ("model1", model::lives),
    ("model2", model::lives),
    ("tree", tree::lives),
    ("busy", busy::lives),
    ("moving", moving::lives),
    ("shrinking", shrinking::lives),
    ("pressure", pressure::lasts),
];

struct Options {
    length: Duration,
    seed: u64,
    /// One JSON object a line.
    json: bool,
}

/// A soak of its own: `--soak MINUTES SEED [--json]`. Exit code: 0 when nothing was wrong.
pub fn command(args: &[String]) -> u8 {
    let number = |n: usize| args.get(n).and_then(|arg| arg.parse().ok());
    let (Some(minutes), Some(seed)) = (number(1), number(2)) else {
        eprintln!("usage: {FLAG} MINUTES SEED [--json]");
        return 2;
    };
    let options = Options {
        length: Duration::from_secs(60 * minutes),
        seed,
        json: args.iter().any(|arg| arg == "--json"),
    };
    let report = module::load().and_then(|()| run(&options));
    let report = report.map(|mut report| {
        if let Err(err) = module::unload() {
            report
                .failures
                .push(format!("unloading the module: {err:#}"));
        }
        report
    });
    match report {
        Ok(report) => {
            report.print(options.json);
            u8::from(!report.failures.is_empty())
        }
        Err(err) => {
            eprintln!("the soak did not begin: {err:#}");
            1
        }
    }
}

fn short() -> Result<()> {
    let report = run(&Options {
        length: seconds(20),
        seed: 1,
        json: false,
    })?;
    report.print(false);
    match report.failures.as_slice() {
        [] => Ok(()),
        failures => bail!("{}", failures.join("\n")),
    }
}

/// What stays is seen: a device, its program, a file of ours.
fn notices() -> Result<()> {
    let disk = RamDisk::new()?;
    let _prepared = Prepared::new()?;
    let before = Census::take()?;
    let file = std::fs::File::open("/dev/null")?;
    let prog = Prog::load("checker", &[])?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--bpf-fastpath=checker"])?;
    let other = before.other_than(&Census::take()?).join(", ");
    for kind in [
        "devices",
        "disks",
        "nodes",
        "processes and threads",
        "bpf programs",
        "bpf maps",
        "pinned programs",
        "records",
        "claimed RAM disks",
        "our files",
        "first free number",
    ] {
        ensure!(other.contains(kind), "{kind} are not noticed: {other}");
    }
    ubd.del()?;
    drop((prog, file));
    before.same_again().map(drop)
}

fn run(options: &Options) -> Result<Report> {
    let mut log = KernelLog::from_now()?;
    let _prepared = Prepared::new()?;
    let before = Census::take().context("the census at the start")?;
    let start = Instant::now();
    let stage = Stage::new(options.length);
    let mut failures = work(options, &stage, &mut log);
    let spent = start.elapsed();
    match leftovers::clean_up() {
        Ok(left) if left.is_empty() => {}
        Ok(left) => failures.push(format!("left behind: {}", left.join(", "))),
        Err(err) => failures.push(format!("failed to clean up: {err:#}")),
    }
    let after = match before.same_again() {
        Ok(after) => Some(after),
        Err(err) => {
            failures.push(format!("{err:#}"));
            None
        }
    };
    match log.complaints() {
        Ok(text) if text.is_empty() => {}
        Ok(text) => failures.push(format!("the kernel complained:\n{text}")),
        Err(err) => failures.push(format!("{err:#}")),
    }
    Ok(Report {
        seed: options.seed,
        spent,
        counts: stage.counts(),
        before,
        after,
        failures,
    })
}

/// All workers, until the time is up or one fails; gives what has failed.
fn work(options: &Options, stage: &Stage, log: &mut KernelLog) -> Vec<String> {
    let mut failures = Vec::new();
    let mut seeds = Rng::with_seed(options.seed);
    std::thread::scope(|scope| {
        let mut working: Vec<_> = WORKERS
            .iter()
            .map(|(name, work)| {
                let mut worker = Worker::new(stage, name, seeds.fork());
                let run = move || {
                    let result = work(&mut worker);
                    if result.is_err() {
                        worker.stage.stop();
                    }
                    result.with_context(|| format!("worker {name}"))
                };
                scope.spawn(run)
            })
            .collect();
        let start = Instant::now();
        let mut minutes = 0;
        while !working.is_empty() {
            sleep(Duration::from_millis(500));
            let (ended, going): (Vec<_>, Vec<_>) =
                working.into_iter().partition(|work| work.is_finished());
            working = going;
            for work in ended {
                let result = work
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a worker panicked")));
                if let Err(err) = result {
                    stage.stop();
                    // At once: the others may take their time.
                    if !options.json {
                        println!("FAILED after {:.0?}: {err:?}", start.elapsed());
                    }
                    failures.push(format!("{err:#}"));
                }
            }
            if let Ok(text) = log.complaints() {
                if !text.is_empty() {
                    stage.stop();
                    failures.push(format!("the kernel complained:\n{text}"));
                }
            }
            let (name, doing, since) = stage.slowest();
            if since > STANDSTILL * slowness() {
                println!(
                    "HANGS: {name} at `{doing}`, for {since:.0?}; seed {}",
                    options.seed
                );
                supervisor::print_blocked_tasks();
                supervisor::leave();
            }
            if start.elapsed().as_secs() / 60 > minutes {
                minutes += 1;
                report::minute(options.json, minutes, stage);
            }
        }
    });
    failures
}

/// What is there all the time, so that the census does not see it come.
struct Prepared;

impl Prepared {
    fn new() -> Result<Prepared> {
        let disk = RamDisk::new()?;
        sh(format!(
            "modprobe loop; modprobe dm-delay; ubd-bpf list | grep -q linear || ubd-bpf load linear
             [ -e /tmp/tree ] || cp -a /usr/share/zoneinfo /tmp/tree
             echo +memory > /sys/fs/cgroup/cgroup.subtree_control
             mkdir -p {0}; echo 48M > {0}/memory.max; mkdir -p /run/ubd",
            tree::GROUP
        ))?;
        for options in ["--bpf-fastpath", "--forward"] {
            Ubd::add(&["-t loop -f", &disk.node(), options])?.del()?;
        }
        Ok(Prepared)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // What fails here is nobody's but the next soak's.
        let _ = sh(format!("rmdir {}", tree::GROUP));
    }
}
