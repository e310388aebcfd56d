// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to I/O while no daemon is there.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::{kill_daemon, listed, recover, SOON};
use crate::support::io::{open_direct, read_direct, write_direct};
use crate::support::{growth, seconds, slowness, wait_for, Background, Files, Quiet, RamDisk, Ubd};

/// A flush that concerns the daemon shares the fate of all that does.
pub fn flush() -> Result<()> {
    let disk = RamDisk::new()?;
    for policy in ["wait", "fail"] {
        let ubd = Ubd::add(&["-t loop -f", &disk.node(), &format!("--recovery={policy}")])?;
        let file = open_direct(ubd.node(), true)?;
        write_direct(ubd.node(), 0, &[1; 4096])?;
        file.sync_data().context("a flush with a daemon")?;
        if policy == "fail" {
            kill_daemon(&ubd, "fail_io")?;
            let start = Instant::now();
            let err = file
                .sync_data()
                .err()
                .context("a flush without a daemon succeeded")?;
            ensure!(err.raw_os_error() == Some(libc::EIO), "the flush got {err}");
            ensure!(start.elapsed() < SOON * slowness());
            recover(&ubd)?;
            file.sync_data().context("a flush with the next daemon")?;
            drop(file);
        } else {
            kill_daemon(&ubd, "quiesced")?;
            let waiting = std::thread::spawn(move || file.sync_data());
            std::thread::sleep(seconds(1));
            ensure!(!waiting.is_finished(), "a flush without a daemon ended");
            recover(&ubd)?;
            waiting
                .join()
                .expect("the flush")
                .context("the flush that waited")?;
        }
        ubd.del()?;
    }
    Ok(())
}

pub fn fails() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop --recovery=fail -f", &disk.node()])?;
    write_direct(ubd.node(), 0, &[1; 4096])?;
    for _ in 0..3 {
        kill_daemon(&ubd, "fail_io")?;
        let start = Instant::now();
        ensure!(
            read_direct(ubd.node(), 0, 4096).is_err(),
            "a read succeeded"
        );
        ensure!(
            write_direct(ubd.node(), 0, &[2; 4096]).is_err(),
            "a write succeeded"
        );
        ensure!(start.elapsed() < SOON * slowness());
        recover(&ubd)?;
        ensure!(read_direct(ubd.node(), 0, 4096)? == [1; 4096]);
    }
    ubd.del()
}

/// The default: what the kernel does alone, it goes on doing.
pub fn continues() -> Result<()> {
    let files = Files::ext4()?;
    let backing = files.file("backing", 16 << 20)?;
    let ubd = Ubd::add(&[
        "-t loop --direct-io --bpf-fastpath --recovery -f",
        &backing.display().to_string(),
    ])?;
    ensure!(listed(&ubd, "on_daemon_death")? == "continue");
    kill_daemon(&ubd, "quiesced")?;
    let count = growth(&ubd, || {
        write_direct(ubd.node(), 4096, &[3; 8192])?;
        ensure!(read_direct(ubd.node(), 4096, 8192)? == [3; 8192]);
        open_direct(ubd.node(), true)?
            .sync_data()
            .context("a flush of slots alone")
    })?;
    count.all_mapped(2)?;
    recover(&ubd)?;
    ensure!(read_direct(ubd.node(), 4096, 8192)? == [3; 8192]);
    ubd.del()
}

/// `--on-daemon-death stop`: all I/O waits or fails, and is mapped again by and by.
pub fn stops() -> Result<()> {
    let disk = RamDisk::new()?;
    let add = |policy: &str| {
        Ubd::add(&[
            "-t loop --bpf-fastpath --on-daemon-death stop -f",
            &disk.node(),
            &format!("--recovery={policy}"),
        ])
    };
    let ubd = add("wait")?;
    ensure!(listed(&ubd, "on_daemon_death")? == "stop");
    growth(&ubd, || write_direct(ubd.node(), 0, &[4; 4096]))?.all_mapped(1)?;
    // It would read the partition table, and nobody else can open the disk while that waits.
    let quiet = Quiet::udev()?;
    for _ in 0..3 {
        kill_daemon(&ubd, "quiesced")?;
        let before = ubd.counters()?;
        let mut read = Background::start(format!(
            "dd if={} bs=4k count=1 iflag=direct | cmp - <(head -c 4096 /dev/zero | tr '\\0' '\\4')",
            ubd.node()
        ))?;
        wait_for("the read to be declined", SOON, || {
            let now = ubd.counters();
            now.is_ok_and(|now| now.since(&before)["declined"] > 0)
        })?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(read.is_running(), "a read went on that should wait");
        recover(&ubd)?;
        read.finish().context("the read that waited")?;
        growth(&ubd, || read_direct(ubd.node(), 0, 4096).map(drop))?
            .all_mapped(1)
            .context("after the recovery")?;
    }
    drop(quiet);
    ubd.del()?;

    let ubd = add("fail")?;
    // What udev has begun to read may still be mapped.
    let quiet = Quiet::udev()?;
    kill_daemon(&ubd, "fail_io")?;
    let count = growth(&ubd, || {
        ensure!(
            read_direct(ubd.node(), 0, 4096).is_err(),
            "a read succeeded"
        );
        Ok(())
    })?;
    drop(quiet);
    ensure!(count["mapped"] == 0, "{}", count.summary());
    recover(&ubd)?;
    growth(&ubd, || read_direct(ubd.node(), 0, 4096).map(drop))?.all_mapped(1)?;
    ubd.del()
}
