// SPDX-License-Identifier: MIT OR Apache-2.0
//! The price of an I/O in instructions, on a machine whose clock is its instruction counter: one
//! instruction is one nanosecond, so fio's time per I/O is the number of instructions that the
//! whole machine spent on it, whatever else the host does.

use anyhow::{ensure, Context, Result};

use crate::device::Device;
use crate::fio::fio;
use crate::numbers::{Mark, Row};
use crate::shell::sh;
use crate::tell;

const RAM: &str = "/dev/ram0";
const FILES: &str = "/tmp/demo/cost";
const FILE: &str = "/tmp/demo/cost/file";

/// How many I/Os make fio's rounding to milliseconds small beside what is measured.
const CHEAP: u64 = 50_000;
const DEAR: u64 = 15_000;

/// All paths to a RAM disk, and to a file on ext4 on it.
pub fn measure() -> Result<Vec<Row>> {
    tell::note(
        "The machine now counts: its clock ticks once an instruction. fio reads 4 KiB at random \
         places, one at a time (io_uring, O_DIRECT), past each path to the same RAM disk, which \
         answers at once: what differs is the path. Application and daemon are included.",
    );
    // A RAM disk has pages only once they are written.
    sh(format!(
        "modprobe brd rd_nr=1 rd_size=65536; modprobe -a dm-mod loop
         dd if=/dev/zero of={RAM} bs=1M count=64 oflag=direct status=none"
    ))
    .context("failed to make a RAM disk")?;
    let mut rows = disk().context("measuring the RAM disk")?;
    check(&rows, &["dm-linear", SLOW])?;
    let files = file().context("measuring the file")?;
    // A kernel worker carries I/O to files: a switch of tasks, as in the kernel's loop device.
    check(&files, &[SLOW])?;
    rows.extend(files);
    Ok(rows)
}

fn disk() -> Result<Vec<Row>> {
    let what = "4 KiB reads, RAM disk";
    let mut rows = vec![other(what, "the disk itself", RAM, CHEAP)?];
    sh(format!(
        "dmsetup create demo --table \"0 $(blockdev --getsz {RAM}) linear {RAM} 0\""
    ))?;
    rows.push(other(what, "dm-linear", "/dev/mapper/demo", CHEAP)?);
    sh("dmsetup remove demo")?;
    rows.push(ubd(what, RAM, true)?);
    rows.push(kernel_loop(what, RAM)?);
    rows.push(ubd(what, RAM, false)?);
    Ok(rows)
}

fn file() -> Result<Vec<Row>> {
    let what = "4 KiB reads, ext4 file";
    sh(format!(
        "mkdir -p {FILES}; mkfs.ext4 -q {RAM}; mount {RAM} {FILES}
         dd if=/dev/zero of={FILE} bs=1M count=32 oflag=direct status=none"
    ))?;
    let rows = vec![
        other(what, "the file itself", FILE, CHEAP)?,
        ubd(what, FILE, true)?,
        kernel_loop(what, FILE)?,
        ubd(what, FILE, false)?,
    ];
    sh(format!("umount {FILES}"))?;
    Ok(rows)
}

/// The fast path must be cheaper than `others`.
fn check(rows: &[Row], others: &[&str]) -> Result<()> {
    let cost = |path: &str| {
        let row = rows.iter().find(|row| row.path == path);
        row.and_then(|row| row.instructions)
            .with_context(|| format!("`{path}` was not measured"))
    };
    let fast = cost(FAST)?;
    for &other in others {
        let other_cost = cost(other)?;
        ensure!(
            fast < other_cost,
            "the fast path takes {fast:.0} instructions per I/O, {other} {other_cost:.0}"
        );
    }
    Ok(())
}

const FAST: &str = "ubd, BPF fast path";
const SLOW: &str = "ubd, daemon";

/// Instructions per random read of `path`, and how many were done.
fn reads(path: &str, count: u64) -> Result<(u64, f64)> {
    let options = format!(
        "--rw=randread --iodepth=1 --size=32m --norandommap --io_size={}",
        count * 4096
    );
    let done = fio(path, &options)?;
    ensure!(done.ios >= count, "fio did {} of {count} I/Os", done.ios);
    Ok((done.ios, done.ns_per_io))
}

/// A path that is not ubd's.
fn other(workload: &str, path: &str, node: &str, count: u64) -> Result<Row> {
    let (ios, instructions) = reads(node, count)?;
    tell::untimed(&format!("{workload}, {path}: {instructions:.0}"));
    Ok(Row {
        workload: workload.to_owned(),
        path: path.to_owned(),
        ios,
        hit_rate: None,
        wakeups: None,
        instructions: Some(instructions),
    })
}

fn kernel_loop(workload: &str, backing: &str) -> Result<Row> {
    let node = sh(format!("losetup -f --show --direct-io=on {backing}"))?;
    let row = other(workload, "kernel loop device", &node, DEAR)?;
    sh(format!("losetup -d {node}"))?;
    Ok(row)
}

fn ubd(workload: &str, backing: &str, fast: bool) -> Result<Row> {
    let (option, path, count) = if fast {
        ("--bpf-fastpath", FAST, CHEAP)
    } else {
        ("", SLOW, DEAR)
    };
    let device = Device::add(&format!("-f {backing} --direct-io=on {option}"))?;
    let start = Mark::of(&device)?;
    let (_, instructions) = reads(&device.node(), count)?;
    let used = start.since(&device)?;
    used.check(fast)?;
    device.del()?;
    tell::untimed(&format!("{workload}, {path}: {instructions:.0}"));
    let mut row = used.row(workload, path);
    row.instructions = Some(instructions);
    Ok(row)
}
