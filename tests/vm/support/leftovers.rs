// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test must not leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use ubd_bpf::control::{Control, CONTROL_NODE};

use super::{sh, slowness};

/// Things may go a moment after the command that ended them.
const GRACE: Duration = Duration::from_secs(10);

/// Programs that `--bpf-fastpath` loads stay loaded, by design.
const RESIDENT: &[&str] = &["linear"];

/// Takes away what a test has left and names it.
pub fn clean_up() -> Result<Vec<String>> {
    let start = Instant::now();
    let mut left = find()?;
    while !left.is_empty() && start.elapsed() < GRACE * slowness() {
        sleep(Duration::from_millis(50));
        left = find()?;
    }
    if left.is_empty() {
        return Ok(Vec::new());
    }
    // Each step may fail: what stays is seen by the next test, and at the unloading.
    signal_processes(libc::SIGCONT);
    sh("set +e
        awk '$5 ~ /^\\/mnt\\// { print $5 }' /proc/self/mountinfo | tac | xargs -r -n1 umount
        awk '$1 ~ /^\\/dev\\/ubdb/ { print $2 }' /proc/mounts | tac | xargs -r -n1 umount
        timeout 60 ubd del -a --force
        ls /sys/fs/bpf/ubd | grep -vx linear | xargs -r -n1 ubd-bpf unload
        dmsetup --noudevsync remove_all
        losetup -D
        true")?;
    signal_processes(libc::SIGKILL);
    Ok(left.into_iter().collect())
}

fn find() -> Result<BTreeSet<String>> {
    let mut left = BTreeSet::new();
    for name in names("/sys/class/ubd-char") {
        left.insert(format!("device {name}"));
    }
    for disk in names("/sys/block") {
        let dir = format!("/sys/block/{disk}");
        if disk.starts_with("ubd")
            || disk.starts_with("dm-")
            || fs::exists(format!("{dir}/loop/backing_file"))?
        {
            left.insert(format!("disk {disk}"));
        }
    }
    for (pid, name) in processes() {
        left.insert(format!("process {name} ({pid})"));
    }
    for line in fs::read_to_string("/proc/mounts")?.lines() {
        let mut words = line.split(' ');
        let (Some(what), Some(dir)) = (words.next(), words.next()) else {
            continue;
        };
        if what.starts_with("/dev/ubdb") || dir.starts_with("/mnt/") {
            left.insert(format!("mount {dir}"));
        }
    }
    if fs::exists(CONTROL_NODE)? {
        for program in Control::open()?.programs()? {
            if !RESIDENT.contains(&program.name.as_str()) {
                left.insert(format!("program {}", program.name));
            }
        }
    }
    Ok(left)
}

/// The servers and load generators that run.
fn processes() -> Vec<(i32, String)> {
    let pids = names("/proc")
        .into_iter()
        .filter_map(|name| name.parse().ok());
    pids.filter_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()?
            .trim_end()
            .to_owned();
        // The driver's threads have such names too, but no command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (["ubd", "rublk", "fio"].contains(&name.as_str()) && !line.is_empty())
            .then_some((pid, name))
    })
    .collect()
}

fn signal_processes(signal: i32) {
    for (pid, _) in processes() {
        // SAFETY: signals a process; no memory is involved.
        unsafe { libc::kill(pid, signal) };
    }
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
