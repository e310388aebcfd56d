// SPDX-License-Identifier: MIT OR Apache-2.0
//! A frozen daemon: I/O that the program maps does not notice, I/O that it declines waits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::device::Device;
use crate::numbers::Mark;
use crate::shell::sh;
use crate::tell;

const BLOCK: u64 = 4096;
const FROZEN_FOR: Duration = Duration::from_secs(3);

/// What O_DIRECT reads into.
#[repr(align(4096))]
#[derive(PartialEq)]
struct Block([u8; BLOCK as usize]);

/// Past the page cache.
fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .with_context(|| format!("failed to open `{path}`"))
}

fn read(file: &File, block: u64) -> Result<Block> {
    let mut buffer = Block([0; BLOCK as usize]);
    file.read_exact_at(&mut buffer.0, block * BLOCK)
        .with_context(|| format!("failed to read block {block}"))?;
    Ok(buffer)
}

/// A stopped process; goes on when dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i32) -> Result<Stopped> {
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).context("failed to stop the daemon")?;
        let stopped = Stopped(pid);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !sh(format!("cat /proc/{pid}/task/*/status"))?
            .lines()
            .filter(|line| line.starts_with("State:"))
            .all(|line| line.contains("stopped"))
        {
            ensure!(Instant::now() < deadline, "the daemon did not stop");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // What fails here is seen by the one who waits for the daemon.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// `disk` behind a program that knows its first half only.
pub fn show(disk: &str) -> Result<()> {
    let sectors: u64 = sh(format!("blockdev --getsz {disk}"))?.parse()?;
    let half = sectors / 2 / 8 * 8;
    let load = format!("ubd-bpf load concat.bpf.o --name half --set nr=1 --set slot_len={half}");
    println!("\n  $ {load}\n  $ ubd add -t loop -f {disk} --bpf-fastpath=half");
    sh(format!("cd \"$UBD_BPF_DIR/..\"; {load}"))?;
    let device = Device::add(&format!("-f {disk} --bpf-fastpath=half"))?;
    tell::note("The program maps the first half of the disk and leaves the second to the daemon.");

    let backing = open(disk)?;
    let first_unmapped = half * 512 / BLOCK;
    let block = (first_unmapped..sectors * 512 / BLOCK)
        .find(|&block| read(&backing, block).is_ok_and(|block| block.0 != [0; BLOCK as usize]))
        .context("the second half of the image is empty")?;
    freeze(&device, &backing, first_unmapped, block)?;

    device.del()?;
    sh("ubd-bpf unload half")?;
    Ok(())
}

/// Blocks before `mapped` are mapped, `unmapped` is a block that is not.
fn freeze(device: &Device, backing: &File, mapped: u64, unmapped: u64) -> Result<()> {
    let front = open(&device.node())?;
    let stopped = Stopped::new(device.daemon()?)?;
    tell::step("the daemon is stopped (SIGSTOP)");
    let start = Mark::of(device)?;

    let waiting = {
        let front = front.try_clone()?;
        thread::spawn(move || read(&front, unmapped))
    };
    let frozen = Instant::now();
    let mut done = 0;
    while frozen.elapsed() < FROZEN_FOR {
        // Any order that is not in sequence.
        read(&front, done * 7919 % mapped)?;
        done += 1;
    }
    let used = start.since(device)?;
    ensure!(
        !waiting.is_finished(),
        "an unmapped read ended while the daemon was stopped"
    );
    ensure!(
        used.mapped == done && used.declined == 1 && used.wakeups == 0,
        "after {done} mapped reads and one other, the device says: {}",
        used.summary()
    );
    tell::step(&format!(
        "{} mapped reads in {:.0} s, as if nothing had happened; 1 unmapped read waits",
        tell::number(done),
        FROZEN_FOR.as_secs_f64()
    ));

    let thawed = Instant::now();
    drop(stopped);
    while !waiting.is_finished() {
        ensure!(
            thawed.elapsed() < Duration::from_secs(60),
            "the unmapped read still waits, a minute after SIGCONT"
        );
        thread::sleep(Duration::from_millis(1));
    }
    let took = thawed.elapsed();
    let Ok(data) = waiting.join() else {
        bail!("the reading thread panicked");
    };
    ensure!(
        data? == read(backing, unmapped)?,
        "the unmapped read brought the wrong data"
    );
    tell::step(&format!(
        "the daemon goes on (SIGCONT): {} ms later the unmapped read is done, its data right",
        took.as_millis()
    ));
    Ok(())
}
