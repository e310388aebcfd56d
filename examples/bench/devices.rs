// SPDX-License-Identifier: MIT OR Apache-2.0
//! What devices cost beside their I/O: time and memory, and whether one pays for the others.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use ubd_bpf::control::Control;
use ubd_bpf::fastpath::Source;
use ubd_bpf::sysfs;

use crate::backing::{Backing, Kind};
use crate::clusters;
use crate::fio;
use crate::plan::Job;
use crate::shell::sh;

const OUT: &str = "/ubd/out/devices.json";
const DEVICES: usize = 64;
/// Times are the median of so many.
const TIMES: usize = 5;

/// The clock counts instructions: nanoseconds are instructions.
pub fn run(ios: u64) -> Result<()> {
    let backing = Backing::make(Kind::Block)?;
    // The first time brings the programs into the page cache.
    del(add(&backing)?.0)?;

    let mut adds = Vec::new();
    for _ in 0..TIMES {
        let (id, took) = add(&backing)?;
        adds.push(took);
        del(id)?;
    }
    let (first, _) = add(&backing)?;
    let mut binds = Vec::new();
    let control = Control::open()?;
    for _ in 0..TIMES {
        let start = Instant::now();
        control.bind(first, "linear", 0)?;
        binds.push(nanoseconds(start));
    }
    let alone = read(first, ios)?;

    let before = Memory::now()?;
    let mut ids = vec![first];
    let mut adds_among_many = Vec::new();
    for number in 1..=DEVICES {
        let (id, took) = add(&backing)?;
        ids.push(id);
        if number + TIMES > DEVICES {
            adds_among_many.push(took);
        }
    }
    let used = Memory::now()?.since(&before, DEVICES);
    let many_first = read(first, ios)?;
    let many_last = read(ids[DEVICES], ios)?;
    for id in ids {
        del(id)?;
    }

    let before = Memory::now()?;
    let map = clusters::identity("bench", Source::cluster())?;
    let map_bytes = Memory::now()?.since(&before, 1).all;
    drop(map);
    let reach = u64::from(clusters::CLUSTERS) * clusters::CLUSTER_BYTES;
    let text = json!({
        "devices": DEVICES + 1,
        "add": median(adds),
        "add_among_many": median(adds_among_many),
        "bind": median(binds),
        "insn_alone": alone,
        "insn_among_many_first": many_first,
        "insn_among_many_last": many_last,
        "kernel_bytes_per_device": used.kernel,
        "bytes_per_device": used.all,
        "cluster_map_bytes_per_gib": map_bytes / (reach >> 30) as i64,
        "cluster_kib": clusters::CLUSTER_BYTES >> 10,
    });
    fs::write(OUT, text.to_string()).with_context(|| format!("failed to write `{OUT}`"))
}

/// `ubd add`, from the start of the program to its end; udev is not waited for. Instructions of
/// the whole machine, without those that an idle clock skipped.
fn add(backing: &Backing) -> Result<(u32, u64)> {
    let idle_before = idle()?;
    let start = Instant::now();
    let node = sh(format!(
        "exec ubd add -t loop --show --bpf-fastpath -f {}",
        backing.node
    ))?;
    let took = nanoseconds(start).saturating_sub(idle()? - idle_before);
    sh("udevadm settle --timeout=60")?;
    Ok((sysfs::parse_device(&node)?, took))
}

fn del(id: u32) -> Result<()> {
    sh(format!("ubd del {id}"))?;
    Ok(())
}

/// Instructions of a mapped 4 KiB random read.
fn read(id: u32, ios: u64) -> Result<f64> {
    let job = Job {
        index: 0,
        path: "mapped".into(),
        rw: "randread".into(),
        bs: 4096,
        engine: "io_uring".into(),
        qd: 1,
        ios,
    };
    Ok(fio::run(&format!("/dev/ubdb{id}"), &job)?.ns_per_io)
}

/// Nanoseconds that the CPU has been idle; in steps of 10 ms.
fn idle() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
    // cpu user nice system idle iowait …
    let mut ticks = 0;
    for word in text.split_whitespace().skip(4).take(2) {
        ticks += word.parse::<u64>()?;
    }
    Ok(ticks * 10_000_000)
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn median(mut times: Vec<u64>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes in use.
struct Memory {
    /// Slabs, per-CPU data, stacks and page tables.
    kernel: i64,
    /// Everything, the daemons' memory too.
    all: i64,
}

impl Memory {
    fn now() -> Result<Memory> {
        let text = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
        let field = |name: &str| -> Result<i64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("there is no `{name}` in /proc/meminfo"))?;
            let kib: i64 = line.trim().trim_end_matches(" kB").parse()?;
            Ok(kib << 10)
        };
        let kernel = ["Slab", "Percpu", "KernelStack", "PageTables"];
        Ok(Memory {
            kernel: kernel.into_iter().map(field).sum::<Result<i64>>()?,
            all: -field("MemAvailable")?,
        })
    }

    /// The difference, for one of so many.
    fn since(&self, before: &Memory, devices: usize) -> Memory {
        let per_device = |bytes: i64| bytes / devices as i64;
        Memory {
            kernel: per_device(self.kernel - before.kernel),
            all: per_device(self.all - before.all),
        }
    }
}
