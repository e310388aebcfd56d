// SPDX-License-Identifier: MIT OR Apache-2.0
//! The promises of the mapped path: nobody is woken, the statistics are right, a device with a
//! program behaves as a disk.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::support::backing::{noise, same, Backing, Kind};
use crate::support::io::{open_direct, read_direct, read_flags, write_direct, write_flags, Aligned};
use crate::support::{fails, sh, Files, Fio, Prog, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test { name: "fastpath/daemon_sleeps_disk", run: daemon_sleeps_disk },
    Test { name: "fastpath/daemon_sleeps_file", run: daemon_sleeps_file },
    Test { name: "fastpath/iostat_disk_mapped", run: || iostat(Kind::Disk, "--bpf-fastpath") },
    Test { name: "fastpath/iostat_file_mapped", run: || iostat(Kind::FileDirect, "--bpf-fastpath") },
    Test { name: "fastpath/iostat_declined", run: || iostat(Kind::Disk, "") },
    Test { name: "fastpath/read_only", run: read_only },
    Test { name: "fastpath/end_of_disk_mapped", run: || end_of_disk(Kind::Disk, "--bpf-fastpath") },
    Test { name: "fastpath/end_of_file_mapped", run: || end_of_disk(Kind::FileDirect, "--bpf-fastpath") },
    Test { name: "fastpath/end_of_disk_declined", run: || end_of_disk(Kind::Disk, "") },
    Test { name: "fastpath/partitions", run: partitions },
    Test { name: "fastpath/nowait_that_must_split", run: nowait },
    Test { name: "fastpath/split_under_load", run: split_under_load },
    Test { name: "fastpath/tools_agree_with_sysfs", run: tools },
    Test { name: "fastpath/tracepoint", run: tracepoint },
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

fn add(backing: &Backing, more: &str) -> Result<Ubd> {
    let mut args = backing.args();
    args.push(more.to_owned());
    Ubd::add(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Fields of `/sys/block/X/stat`: ios and sectors read, ios and sectors written, in flight.
fn stat(ubd: &Ubd) -> Result<[u64; 5]> {
    let text = ubd.attr("stat")?;
    let fields: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok([fields[0], fields[2], fields[4], fields[6], fields[8]])
}

fn iostat(kind: Kind, more: &str) -> Result<()> {
    let backing = Backing::new(kind)?;
    let ubd = add(&backing, more)?;
    // Open until the end: udev reads a disk that was closed after writing.
    let file = open_direct(ubd.node(), true)?;
    let (before, counters) = (stat(&ubd)?, ubd.counters()?);
    let mut buffer = Aligned::new(8192);
    for number in 0..10 {
        file.read_exact_at(&mut buffer, number * 12288)?;
    }
    for number in 0..7 {
        file.write_all_at(&buffer[..4096], number * 8192 + 512)?;
    }
    let (after, count) = (stat(&ubd)?, ubd.counters()?.since(&counters));
    let grown = [0, 1, 2, 3].map(|field| after[field] - before[field]);
    ensure!(grown == [10, 160, 7, 56], "iostat grew by {grown:?} for 10 reads of 16 and 7 writes of 8 sectors");
    ensure!(after[4] == 0, "{} I/Os are in flight", after[4]);
    let which = if more.is_empty() { "declined" } else { "mapped" };
    let counted =
        ["read", "read_sectors", "write", "write_sectors"].map(|name| match name.split_once('_') {
            None => count[&format!("{name}_{which}")],
            Some((op, _)) => count[&format!("{op}_{which}_sectors")],
        });
    ensure!(counted == grown, "iostat says {grown:?}, the counters say {}", count.summary());
    Ok(())
}

fn read_only() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let ubd = add(&backing, "--read-only --bpf-fastpath")?;
    ensure!(ubd.attr("ro")? == "1", "the disk is not read-only");
    let slots = sh(format!("ubd-bpf slot list {} -J", ubd.id()))?;
    let before = ubd.counters()?;
    let is = read_direct(ubd.node(), 0, 65536)?;
    same(&is, &backing.shown()[..65536])?;
    ubd.counters()?.since(&before).all_mapped(1)?;
    for how in ["", "conv=fsync", "oflag=direct"] {
        fails(1, format!("dd if=/dev/zero of={} bs=4k count=1 {how}", ubd.node()))?;
    }
    fails(1, format!("blkdiscard -fz {}", ubd.node()))?;
    let count = ubd.counters()?.since(&before);
    ensure!(count["write_mapped"] + count["write_declined"] + count["bad"] == 0, "{}", count.summary());
    ensure!(slots.contains("read_only") || slots.contains("\"write\""), "the slot's mode is missing: {slots}");
    ubd.del()?;
    backing.check(&backing.shown())
}

/// Reads end and writes fail where the device does, though the backing goes on.
fn end_of_disk(kind: Kind, more: &str) -> Result<()> {
    let backing = Backing::new(kind)?;
    let ubd = add(&backing, more)?;
    let size = backing.window.len() as u64;
    let in_sysfs: u64 = ubd.attr("size")?.parse()?;
    ensure!(in_sysfs * 512 == size, "{in_sysfs} sectors for {size} bytes");
    let before = ubd.counters()?;
    let file = open_direct(ubd.node(), true)?;
    let mut model = backing.shown();

    let mut buffer = Aligned::new(8192);
    let n = file.read_at(&mut buffer, size - 1024).context("read across the end")?;
    ensure!(n == 1024, "a read across the end gave {n} bytes");
    same(&buffer[..n], &model[model.len() - 1024..])?;
    let n = file.read_at(&mut buffer, size).context("read at the end")?;
    ensure!(n == 0, "a read at the end gave {n} bytes");

    let data = Aligned::copy_of(noise(1, 8192), 0);
    let n = file.write_at(&data, size - 1024).context("write across the end")?;
    ensure!(n == 1024, "a write across the end wrote {n} bytes");
    let tail = model.len() - 1024;
    model[tail..].copy_from_slice(&data[..1024]);
    let error = file.write_at(&data, size).err().and_then(|err| err.raw_os_error());
    ensure!(error == Some(libc::ENOSPC), "a write at the end gave {error:?}");

    let count = ubd.counters()?.since(&before);
    if more.is_empty() {
        count.all_declined(2)?;
    } else {
        count.all_mapped(2)?;
    }
    drop(file);
    ubd.del()?;
    backing.check(&model)
}

/// A boot sector with partitions of Linux: (first sector, sectors).
fn partition_table(parts: &[(u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (number, (first, sectors)) in parts.iter().enumerate() {
        let entry = &mut sector[446 + number * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn partitions() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let ubd = add(&backing, "--bpf-fastpath")?;
    write_direct(ubd.node(), 0, &partition_table(&[(2048, 4096), (6144, 6144)]))?;
    sh(format!("blockdev --rereadpt {}; udevadm settle --timeout=60", ubd.node()))?;
    let part = format!("{}p2", ubd.node());
    let of_part = |name: &str| -> Result<String> { ubd.attr(&format!("ubdb{}p2/{name}", ubd.id())) };
    let start: u64 = of_part("start")?.parse()?;
    ensure!(of_part("size")? == "6144", "the partition has {} sectors", of_part("size")?);

    let before = ubd.counters()?;
    let ios = Fio::verify(&part, 700).run()?;
    let data = noise(42, 16384);
    write_direct(&part, 4096, data)?;
    same(&read_direct(&part, 4096, data.len())?, data)?;
    ubd.counters()?.since(&before).all_mapped(ios + 2)?;
    let writes: u64 = of_part("stat")?.split_whitespace().nth(4).context("stat is short")?.parse()?;
    ensure!(writes > 0, "the partition's iostat counts no writes");

    // Relative to the partition, the partition to the device, the device to its window.
    let at = backing.window.start as u64 + start * 512 + 4096;
    same(&read_direct(&backing.path, at, data.len())?, data).context("in the backing")?;
    let at = start * 512 + 4096;
    same(&read_direct(ubd.node(), at, data.len())?, data).context("in the device")
}

/// A bio that must not wait and would have to be split is refused, whole.
fn nowait() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let _prog = Prog::load("one_sector", &["block=8"])?;
    let ubd = add(&backing, "--bpf-fastpath=one_sector")?;
    let file = open_direct(ubd.node(), true)?;
    let before = ubd.counters()?;

    let mut buffer = Aligned::new(4096);
    let n = read_flags(&file, &mut buffer, 4096, libc::RWF_NOWAIT).context("a read that needs no split")?;
    ensure!(n == 4096, "a read of 4096 bytes gave {n}");
    same(&buffer, &backing.shown()[4096..8192])?;
    let count = ubd.counters()?.since(&before);
    ensure!(count["eagain"] == 0 && count["read_mapped"] == 1, "{}", count.summary());

    let mut buffer = Aligned::new(16384);
    let error = read_flags(&file, &mut buffer, 0, libc::RWF_NOWAIT).err().and_then(|err| err.raw_os_error());
    ensure!(error == Some(libc::EAGAIN), "a read that needs a split gave {error:?}");
    let data = Aligned::copy_of(noise(3, 16384), 0);
    let error = write_flags(&file, &data, 0, libc::RWF_NOWAIT).err().and_then(|err| err.raw_os_error());
    ensure!(error == Some(libc::EAGAIN), "a write that needs a split gave {error:?}");
    let count = ubd.counters()?.since(&before);
    ensure!(count["eagain"] == 2 && count["splits"] == 0, "{}", count.summary());
    ensure!(count["write_mapped"] == 0 && count["declined"] == 0, "{}", count.summary());

    // Allowed to wait, the same read is split.
    file.read_exact_at(&mut buffer, 0)?;
    same(&buffer, &backing.shown()[..16384])?;
    let count = ubd.counters()?.since(&before);
    ensure!(count["splits"] == 3 && count["read_mapped"] == 5, "{}", count.summary());
    drop(file);
    ubd.del()?;
    backing.check(&backing.shown())
}

/// io_uring tries without waiting first, and then from a thread that may wait.
fn split_under_load() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let _prog = Prog::load("one_sector", &["block=8"])?;
    let ubd = add(&backing, "--bpf-fastpath=one_sector")?;
    let before = ubd.counters()?;
    let ios = Fio::verify(&ubd.node(), 400).option("bs=16k").run()?;
    let count = ubd.counters()?.since(&before);
    count.all_mapped(4 * ios)?;
    ensure!(count["splits"] >= 3 * ios && count["eagain"] > 0, "{ios} I/Os: {}", count.summary());
    Ok(())
}

/// `ubd stats` and `ubd list` say what sysfs says.
fn tools() -> Result<()> {
    let backing = Backing::new(Kind::FileDirect)?;
    let ubd = add(&backing, "-q 2 -d 32 --bpf-fastpath")?;
    Fio::new(&ubd.node(), 200).run()?;
    let file = open_direct(ubd.node(), true)?; // keeps udev away
    file.sync_all()?;
    sh("udevadm settle --timeout=60")?;
    let counters = ubd.counters()?;
    let stats: Value = serde_json::from_str(&sh(format!("ubd stats -J {}", ubd.id()))?)?;
    let told = &stats["stats"][0];
    ensure!(told["name"] == ubd.node() && told["program"] == "linear", "{stats}");
    let told = &told["counters"];
    let number = |value: &Value| value.as_u64().with_context(|| format!("`{value}` is no count in {stats}"));
    for total in ["mapped", "zero", "declined", "error", "bad", "splits", "eagain", "file_worker", "flush_slots"] {
        ensure!(number(&told[total])? == counters[total], "{total} differs: {stats}");
    }
    for op in ["read", "write", "discard", "write_zeroes"] {
        for kind in ["mapped", "declined", "mapped_sectors", "declined_sectors"] {
            ensure!(number(&told[op][kind])? == counters[&format!("{op}_{kind}")], "{op} {kind} differs: {stats}");
        }
    }
    ensure!(counters["read_mapped"] > 0 && counters["write_mapped"] > 0, "{}", counters.summary());

    let list: Value = serde_json::from_str(&sh("ubd list -J")?)?;
    let [told] = list["devices"].as_array().context("no devices")?.as_slice() else {
        anyhow::bail!("one device exists: {list}");
    };
    ensure!(told["id"] == ubd.id() && told["name"] == ubd.node(), "{told}");
    ensure!(told["state"] == "live" && told["program"] == "linear" && told["target"] == "loop", "{told}");
    ensure!(told["size"] == backing.window.len() && told["queues"] == 2 && told["depth"] == 32, "{told}");
    ensure!(told["pid"] == ubd.pid()? && told["backing"] == backing.path.display().to_string(), "{told}");
    Ok(())
}

fn tracepoint() -> Result<()> {
    const DIR: &str = "/sys/kernel/tracing";
    let backing = Backing::new(Kind::Disk)?;
    let ubd = add(&backing, "--bpf-fastpath")?;
    sh(format!("echo > {DIR}/trace; echo 1 > {DIR}/events/ubd/ubd_verdict/enable"))?;
    let read = read_direct(ubd.node(), 24 * 512, 8192);
    let trace = sh(format!("echo 0 > {DIR}/events/ubd/ubd_verdict/enable; grep ubd_verdict: {DIR}/trace; echo > {DIR}/trace"))?;
    read?;
    let want = format!("ubdb{} op read sector 24 + 16 verdict 1 slot 0 map_sector 24 map_sectors 16", ubd.id());
    ensure!(trace.contains(&want), "`{want}` is not in the trace:\n{trace}");
    Ok(())
}
