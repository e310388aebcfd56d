// SPDX-License-Identifier: MIT OR Apache-2.0
//! The promises of the mapped path: nobody is woken, splits are right, and the tools tell it all.

pub mod as_disk;
pub mod shrunk;

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::support::backing::{noise, same, Backing, Kind};
use crate::support::io::{open_direct, read_direct, read_flags, write_flags, Aligned};
use crate::support::{sh, Files, Fio, Prog, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("fastpath/daemon_sleeps_disk", daemon_sleeps_disk),
    Test::new("fastpath/daemon_sleeps_file", daemon_sleeps_file),
    Test::new("fastpath/nowait_that_must_split", nowait),
    Test::new("fastpath/split_under_load", split_under_load),
    Test::new("fastpath/tools_agree_with_sysfs", tools),
    Test::new("fastpath/tracepoint", tracepoint),
];

/// 20 000 mapped I/Os leave the daemon asleep.
fn daemon_sleeps(args: &str) -> Result<()> {
    let ubd = Ubd::add(&["-t loop", args, "--bpf-fastpath"])?;
    let (before, switches) = (ubd.counters()?, ubd.daemon_switches()?);
    let ios = Fio::new(&ubd.node(), 20_000).run()?;
    let switches = ubd.daemon_switches()? - switches;
    let count = ubd.counters()?.since(&before);
    ensure!(ios >= 20_000, "fio did only {ios} I/Os");
    count.all_mapped(ios)?;
    ensure!(switches <= 2, "the daemon was switched to {switches} times");
    Ok(())
}

fn daemon_sleeps_disk() -> Result<()> {
    let disk = RamDisk::new()?;
    daemon_sleeps(&format!("-f {}", disk.node()))
}

fn daemon_sleeps_file() -> Result<()> {
    let files = Files::ext4()?;
    let file = files.file("backing", 96 << 20)?;
    daemon_sleeps(&format!("-f {} --direct-io=on", file.display()))
}

/// A bio that must not wait and would have to be split is refused, whole.
fn nowait() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let _prog = Prog::load("one_sector", &["block=8"])?;
    let ubd = backing.device("--bpf-fastpath=one_sector")?;
    let file = open_direct(ubd.node(), true)?;
    let before = ubd.counters()?;

    let mut buffer = Aligned::new(4096);
    let n = read_flags(&file, &mut buffer, 4096, libc::RWF_NOWAIT)
        .context("a read that needs no split")?;
    ensure!(n == 4096, "a read of 4096 bytes gave {n}");
    same(&buffer, &backing.shown()[4096..8192])?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["eagain"] == 0 && count["read_mapped"] == 1,
        "{}",
        count.summary()
    );

    let mut buffer = Aligned::new(16384);
    let error = read_flags(&file, &mut buffer, 0, libc::RWF_NOWAIT)
        .err()
        .and_then(|err| err.raw_os_error());
    ensure!(
        error == Some(libc::EAGAIN),
        "a read that needs a split gave {error:?}"
    );
    let data = Aligned::copy_of(noise(3, 16384), 0);
    let error = write_flags(&file, &data, 0, libc::RWF_NOWAIT)
        .err()
        .and_then(|err| err.raw_os_error());
    ensure!(
        error == Some(libc::EAGAIN),
        "a write that needs a split gave {error:?}"
    );
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["eagain"] == 2 && count["splits"] == 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["write_mapped"] == 0 && count["declined"] == 0,
        "{}",
        count.summary()
    );

    // Allowed to wait, the same read is split.
    file.read_exact_at(&mut buffer, 0)?;
    same(&buffer, &backing.shown()[..16384])?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["splits"] == 3 && count["read_mapped"] == 5,
        "{}",
        count.summary()
    );
    drop(file);
    ubd.del()?;
    backing.check(&backing.shown())
}

/// io_uring tries without waiting first, and then from a thread that may wait.
fn split_under_load() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let _prog = Prog::load("one_sector", &["block=8"])?;
    let ubd = backing.device("--bpf-fastpath=one_sector")?;
    let before = ubd.counters()?;
    let ios = Fio::verify(&ubd.node(), 400).option("bs=16k").run()?;
    let count = ubd.counters()?.since(&before);
    count.all_mapped(4 * ios)?;
    ensure!(
        count["splits"] >= 3 * ios && count["eagain"] > 0,
        "{ios} I/Os: {}",
        count.summary()
    );
    Ok(())
}

/// `ubd stats` and `ubd list` say what sysfs says.
fn tools() -> Result<()> {
    let backing = Backing::new(Kind::FileDirect)?;
    let ubd = backing.device("-q 2 -d 32 --bpf-fastpath")?;
    Fio::new(&ubd.node(), 200).run()?;
    let file = open_direct(ubd.node(), true)?; // keeps udev away
    file.sync_all()?;
    sh("settle")?;
    let counters = ubd.counters()?;
    let stats: Value = serde_json::from_str(&sh(format!("ubd stats -J {}", ubd.id()))?)?;
    let told = &stats["stats"][0];
    ensure!(
        told["name"] == ubd.node() && told["program"] == "linear",
        "{stats}"
    );
    let told = &told["counters"];
    let number = |value: &Value| {
        value
            .as_u64()
            .with_context(|| format!("`{value}` is no count in {stats}"))
    };
    for total in [
        "mapped",
        "zero",
        "declined",
        "error",
        "bad",
        "splits",
        "eagain",
        "file_worker",
        "flush_slots",
    ] {
        ensure!(
            number(&told[total])? == counters[total],
            "{total} differs: {stats}"
        );
    }
    for op in ["read", "write", "discard", "write_zeroes"] {
        for kind in ["mapped", "declined", "mapped_sectors", "declined_sectors"] {
            ensure!(
                number(&told[op][kind])? == counters[&format!("{op}_{kind}")],
                "{op} {kind} differs: {stats}"
            );
        }
    }
    ensure!(
        counters["read_mapped"] > 0 && counters["write_mapped"] > 0,
        "{}",
        counters.summary()
    );

    let list: Value = serde_json::from_str(&sh("ubd list -J")?)?;
    let [told] = list["devices"].as_array().context("no devices")?.as_slice() else {
        anyhow::bail!("one device exists: {list}");
    };
    ensure!(
        told["id"] == ubd.id() && told["name"] == ubd.node(),
        "{told}"
    );
    ensure!(
        told["state"] == "live" && told["program"] == "linear" && told["target"] == "loop",
        "{told}"
    );
    ensure!(
        told["size"] == backing.window.len() && told["queues"] == 2 && told["depth"] == 32,
        "{told}"
    );
    ensure!(
        told["pid"] == ubd.pid()? && told["backing"] == backing.path.display().to_string(),
        "{told}"
    );
    Ok(())
}

fn tracepoint() -> Result<()> {
    const DIR: &str = "/sys/kernel/tracing";
    let backing = Backing::new(Kind::Disk)?;
    let ubd = backing.device("--bpf-fastpath")?;
    sh(format!(
        "echo > {DIR}/trace; echo 1 > {DIR}/events/ubd/ubd_verdict/enable"
    ))?;
    let read = read_direct(ubd.node(), 24 * 512, 8192);
    let trace = sh(format!("echo 0 > {DIR}/events/ubd/ubd_verdict/enable; grep ubd_verdict: {DIR}/trace; echo > {DIR}/trace"))?;
    read?;
    let want = format!(
        "ubdb{} op read sector 24 + 16 verdict 1 slot 0 map_sector 24 map_sectors 16",
        ubd.id()
    );
    ensure!(
        trace.contains(&want),
        "`{want}` is not in the trace:\n{trace}"
    );
    Ok(())
}
