// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flush and FUA reach every backing that owes them. Each backing is a disk with a volatile cache,
//! which counts the flushes that it gets.

mod released;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use crate::support::backing::noise;
use crate::support::io::{open_direct, write_flags, Aligned};
use crate::support::{sh, shipped_object, traced, wait_for, NullDisk, Prog, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test {
        name: "flush/overlapping_a_write_in_flight",
        run: overlap,
    },
    Test {
        name: "flush/two_flushers_beside_a_writer",
        run: two_flushers,
    },
    Test {
        name: "flush/is_owed_after_close_and_open",
        run: reopened,
    },
    Test {
        name: "flush/nothing_written_nothing_flushed",
        run: clean,
    },
    Test {
        name: "flush/fua_reaches_the_disk",
        run: fua_disk,
    },
    Test {
        name: "flush/of_a_file_reaches_its_disk",
        run: || file(""),
    },
    Test {
        name: "flush/of_a_direct_file_reaches_its_disk",
        run: || file("--direct-io=on"),
    },
    Test {
        name: "flush/fua_reaches_the_disk_below_a_file",
        run: fua_file,
    },
    Test {
        name: "flush/declined_writes_are_the_daemons",
        run: declined,
    },
    Test {
        name: "flush/journal_on_two_slots",
        run: journal,
    },
    Test {
        name: "flush/beside_a_stop",
        run: stopped,
    },
    Test {
        name: "flush/released_slot_is_flushed",
        run: released::is_flushed,
    },
    Test {
        name: "flush/waits_for_a_slot_that_goes",
        run: released::is_waited_for,
    },
];

/// A disk with a volatile cache and without FUA: a FUA write is followed by a flush.
fn cached(settings: &[(&str, &str)]) -> Result<NullDisk> {
    let mut all = vec![("cache_size", "8"), ("discard", "1")];
    all.extend(settings);
    let disk = NullDisk::new(64, 512, &[&[("fua", "0")], all.as_slice()].concat())
        // Before 6.11 null_blk had no such setting, and FUA went with the cache.
        .or_else(|_| NullDisk::new(64, 512, &all))?;
    let attr = |name: &str| fs::read_to_string(format!("/sys/block/{}/queue/{name}", disk.name()));
    ensure!(
        attr("write_cache")?.trim() == "write back",
        "null_blk has no cache"
    );
    Ok(disk)
}

/// Flushes that the disk has done: the 16th field of its statistics.
fn flushes(disk: &NullDisk) -> Result<u64> {
    let stat = fs::read_to_string(format!("/sys/block/{}/stat", disk.name()))?;
    Ok(stat
        .split_whitespace()
        .nth(15)
        .context("no flush statistics")?
        .parse()?)
}

fn device(disk: &NullDisk) -> Result<Ubd> {
    Ubd::add(&["-t loop -f", &disk.node(), "--bpf-fastpath"])
}

fn write(file: &File, at: u64) -> Result<()> {
    file.write_all_at(&Aligned::copy_of(noise(at as usize % 4096, 4096), 0), at)
        .context("failed to write")
}

/// A write that a flush has overtaken is covered by the next one.
fn overlap() -> Result<()> {
    const SLOW: Duration = Duration::from_millis(250);
    let nsec = SLOW.as_nanos().to_string();
    let disk = cached(&[("irqmode", "2"), ("completion_nsec", &nsec)])?;
    // So that udev's look at the new device does not take as long.
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    let linear = Prog::load_as(&shipped_object("linear"), "slow", &[])?;
    sh(format!(
        "ubd-bpf slot add {0} {1} --size 16M; ubd-bpf bind {0} {2}",
        ubd.id(),
        disk.node(),
        linear.name()
    ))?;
    let open = open_direct(ubd.node(), true)?;
    let (counted, before) = (ubd.counters()?, flushes(&disk)?);
    let writing =
        || fs::read_to_string(format!("/sys/block/{}/inflight", disk.name())).unwrap_or_default();
    let (mut rounds, mut overtaken) = (0, 0);
    while overtaken < 2 {
        rounds += 1;
        ensure!(
            rounds < 20,
            "no flush has overtaken a write: the machine is too slow"
        );
        let (called, written) = std::thread::scope(|scope| -> Result<_> {
            let writer = scope.spawn(|| write(&open, rounds * 8192).map(|()| Instant::now()));
            wait_for("the write to be on its way", 40 * SLOW, || {
                writer.is_finished()
                    || writing()
                        .split_whitespace()
                        .nth(1)
                        .is_some_and(|n| n != "0")
            })?;
            let called = Instant::now();
            open.sync_all()?;
            Ok((called, writer.join().expect("joining")?))
        })?;
        // With room for the way down.
        overtaken += u64::from(written > called + SLOW / 5);
        open.sync_all()?;
        let done = flushes(&disk)? - before;
        ensure!(
            done == 2 * rounds,
            "round {rounds}: the disk has done {done} of {} flushes",
            2 * rounds
        );
    }
    let counted = ubd.counters()?.since(&counted);
    counted.all_mapped(rounds)?;
    ensure!(
        counted["flush_slots"] == 2 * rounds && counted["flush_mapped"] == 2 * rounds,
        "{}",
        counted.summary()
    );
    Ok(())
}

/// No flush of several at a time goes missing.
fn two_flushers() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = device(&disk)?;
    let open = open_direct(ubd.node(), true)?;
    write(&open, 0)?;
    let before = ubd.counters()?;
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| (0..200).try_for_each(|nr| write(&open, nr * 4096)));
        let flusher = || scope.spawn(|| (0..30).try_for_each(|_| open.sync_all()));
        let flushers = [flusher(), flusher()];
        for flusher in flushers {
            flusher.join().expect("joining")?;
        }
        writer.join().expect("joining")
    })?;
    let counted = ubd.counters()?.since(&before);
    counted.all_mapped(260)?;
    ensure!(
        counted["flush_slots"] == 60 && counted["flush_mapped"] == 60,
        "{}",
        counted.summary()
    );
    // The same slot, flushed last, after the last write.
    let before = flushes(&disk)?;
    open.sync_all()?;
    ensure!(
        flushes(&disk)? == before + 1,
        "the last flush has not reached the disk"
    );
    Ok(())
}

/// What was written before the device was closed is flushed when it is open again.
fn reopened() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = device(&disk)?;
    let open = open_direct(ubd.node(), true)?;
    write(&open, 0)?;
    drop(open);
    sh("settle")?;
    let open = open_direct(ubd.node(), false)?;
    let before = flushes(&disk)?;
    open.sync_all()?;
    ensure!(
        flushes(&disk)? == before + 1,
        "the flush of an earlier write has not reached the disk"
    );
    Ok(())
}

/// A flush costs nothing where nothing was written.
fn clean() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = device(&disk)?;
    let open = open_direct(ubd.node(), true)?;
    let (counted, before) = (ubd.counters()?, flushes(&disk)?);
    open.sync_all()?;
    let counted = ubd.counters()?.since(&counted);
    ensure!(
        counted["flush_mapped"] == 1 && counted["flush_slots"] == 0,
        "{}",
        counted.summary()
    );
    ensure!(flushes(&disk)? == before, "a flush for nothing");
    Ok(())
}

/// RWF_DSYNC is a FUA write and a flush; without FUA below, the write brings a flush of its own.
fn fua_disk() -> Result<()> {
    let disk = cached(&[])?;
    let fua = fs::read_to_string(format!("/sys/block/{}/queue/fua", disk.name()))?;
    let ubd = device(&disk)?;
    let open = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(3, 4096), 0);
    write_flags(&open, &data, 0, 0)?;
    let mut grown = Vec::new();
    for flags in [0, libc::RWF_DSYNC] {
        let before = flushes(&disk)?;
        write_flags(&open, &data, 8192, flags)?;
        grown.push(flushes(&disk)? - before);
    }
    let expected = if fua.trim() == "0" { 2 } else { 1 };
    ensure!(
        grown == [0, expected],
        "flushes of a plain and of a FUA write: {grown:?}, expected 0 and {expected}"
    );
    // The bio itself carried it: seen where it is issued to the disk.
    if fua.trim() == "1" {
        let rwbs = traced(&disk, || {
            Ok(write_flags(&open, &data, 16384, libc::RWF_DSYNC).map(drop)?)
        })?;
        ensure!(
            rwbs.contains("WFS"),
            "no FUA write was issued to the disk:\n{rwbs}"
        );
    }
    Ok(())
}

/// With a file, on a file system on such a disk.
fn with_file(mode: &str, body: impl FnOnce(&NullDisk, &Ubd, &File) -> Result<()>) -> Result<()> {
    let disk = cached(&[])?;
    sh(format!(
        "mkfs.ext4 -q {0}; mkdir -p /mnt/flush; mount {0} /mnt/flush",
        disk.node()
    ))?;
    let result = (|| {
        sh("dd if=/dev/zero of=/mnt/flush/backing bs=1M count=16 conv=fsync status=none")?;
        let ubd = Ubd::add(&["-t loop -f /mnt/flush/backing", mode, "--bpf-fastpath"])?;
        let open = open_direct(ubd.node(), true)?;
        body(&disk, &ubd, &open)?;
        drop(open);
        ubd.del()
    })();
    // The first error is the one to tell.
    let unmounted = sh("umount /mnt/flush");
    result.and(unmounted.map(drop))
}

fn file(mode: &str) -> Result<()> {
    with_file(mode, |disk, ubd, open| {
        let counted = ubd.counters()?;
        let data = Aligned::copy_of(noise(9, 4096), 0);
        for (what, act) in [("flush", false), ("FUA", true)] {
            let before = flushes(disk)?;
            if act {
                write_flags(open, &data, 1 << 20, libc::RWF_DSYNC)?;
            } else {
                write(open, 2 << 20)?;
                open.sync_all()?;
            }
            ensure!(
                flushes(disk)? > before,
                "a {what} of the device has not flushed the disk below the file"
            );
        }
        let counted = ubd.counters()?.since(&counted);
        counted.all_mapped(2)?;
        ensure!(
            counted["file_worker"] >= 2 && counted["flush_slots"] >= 2,
            "{}",
            counted.summary()
        );
        Ok(())
    })
}

/// RWF_DSYNC asks for a flush besides: the write itself must have brought one before.
fn fua_file() -> Result<()> {
    with_file("--direct-io=on", |disk, _, open| {
        let data = Aligned::copy_of(noise(9, 4096), 0);
        let least = |flags| -> Result<u64> {
            let mut least = u64::MAX;
            // A commit of the file system's own may add to some of them.
            for _ in 0..5 {
                let before = flushes(disk)?;
                write_flags(open, &data, 1 << 20, flags)?;
                if flags == 0 {
                    open.sync_data()?;
                }
                least = least.min(flushes(disk)? - before);
            }
            Ok(least)
        };
        least(0)?;
        let (plain, durable) = (least(0)?, least(libc::RWF_DSYNC)?);
        ensure!(
            durable > plain,
            "a write and a flush have flushed the disk {plain} times, a FUA write and a flush {durable} times"
        );
        Ok(())
    })
}

/// A write that went to the daemon is flushed through the daemon, and only then.
fn declined() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = device(&disk)?;
    let open = open_direct(ubd.node(), true)?;
    write(&open, 0)?;
    let counted = ubd.counters()?;
    open.sync_all()?;
    let counted = ubd.counters()?.since(&counted);
    ensure!(
        counted["flush_daemon"] == 0 && counted["flush_declined"] == 0,
        "{}",
        counted.summary()
    );

    sh(format!("ubd-bpf unbind {}", ubd.id()))?;
    write(&open, 0)?;
    sh(format!("ubd-bpf bind {} linear", ubd.id()))?;
    let (counted, before) = (ubd.counters()?, flushes(&disk)?);
    open.sync_all()?;
    let counted = ubd.counters()?.since(&counted);
    ensure!(
        counted["flush_daemon"] == 1 && counted["flush_declined"] == 1,
        "{}",
        counted.summary()
    );
    // The daemon's flush of the disk, and the slot's.
    ensure!(
        flushes(&disk)? >= before + 2,
        "only {} flushes",
        flushes(&disk)? - before
    );
    Ok(())
}

/// The commits of a journal reach both disks that the file system lies on.
fn journal() -> Result<()> {
    let disks = [cached(&[])?, cached(&[])?];
    let half = 48 << 11;
    let concat = Prog::load_as(
        &shipped_object("concat"),
        "two",
        &["nr=2", &format!("slot_len={half},{half}")],
    )?;
    let ubd = Ubd::add(&["-t null -s 96M"])?;
    for disk in &disks {
        sh(format!(
            "ubd-bpf slot add {} {} --size 48M",
            ubd.id(),
            disk.node()
        ))?;
    }
    sh(format!("ubd-bpf bind {} {}", ubd.id(), concat.name()))?;
    sh(format!(
        "mkfs.ext4 -q -J size=4 {0}; mkdir -p /mnt/two; mount {0} /mnt/two",
        ubd.node()
    ))?;
    let result = (|| {
        // Data on both.
        sh("dd if=/dev/urandom of=/mnt/two/much bs=1M count=60 conv=fsync status=none")?;
        let before = [flushes(&disks[0])?, flushes(&disks[1])?];
        let counted = ubd.counters()?;
        for nr in 0..5 {
            sh(format!(
                "echo {nr} > /mnt/two/small{nr}; sync /mnt/two/small{nr}"
            ))?;
        }
        for (nr, disk) in disks.iter().enumerate() {
            let grown = flushes(disk)? - before[nr];
            ensure!(grown >= 5, "5 fsyncs have flushed disk {nr} {grown} times");
        }
        ubd.counters()?.since(&counted).all_mapped(5)?;
        // The device's own target forgets everything: what is there came from the slots.
        let sum = sh("md5sum < /mnt/two/much")?;
        sh("umount /mnt/two")?;
        sh(format!("fsck.ext4 -fn {0}; mount {0} /mnt/two", ubd.node()))?;
        ensure!(sh("md5sum < /mnt/two/much")? == sum, "the data has changed");
        Ok(())
    })();
    // The first error is the one to tell.
    let unmounted = sh("umount /mnt/two");
    result.and(unmounted.map(drop))
}

/// Flushes on their way to the daemon when the disks are taken away end, the last with an error.
fn stopped() -> Result<()> {
    let disk = cached(&[])?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node()])?;
    let open = open_direct(ubd.node(), true)?;
    write(&open, 0)?;
    let before = ubd.counters()?;
    let done = std::thread::scope(|scope| -> Result<u64> {
        let flusher = scope.spawn(|| (0..).find(|_| open.sync_all().is_err()));
        std::thread::sleep(Duration::from_millis(500));
        let done = ubd.counters()?.since(&before)["flush_daemon"];
        Control::open()?.stop(ubd.id())?;
        flusher.join().expect("joining");
        Ok(done)
    })?;
    ensure!(done > 0, "no flush has reached the daemon");
    drop(open);
    ubd.del()
}
