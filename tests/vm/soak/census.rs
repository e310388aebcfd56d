// SPDX-License-Identifier: MIT OR Apache-2.0
//! What there is of everything that a device needs: the same before and after, or something leaks.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use ubd_bpf::control::Control;

use crate::control::server::{add, delete};
use crate::support::{sh, slowness};

/// Freed objects take grace periods, and threads of the kernel, to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much less memory there may be afterwards, MiB; caches of everybody else grow, too. One
/// device is about half a MiB: dozens that are lost are seen.
const MEMORY_MIB: i64 = 48;
/// The same for what the kernel cannot take back, and for memory of each CPU.
const UNRECLAIMABLE_MIB: i64 = 12;
const PERCPU_MIB: i64 = 2;

/// How each is counted: the script prints a number. `drop_caches` comes first.
const SCRIPTS: &[(&str, &str)] = &[
    ("devices", "ls /sys/class/ubd-char | wc -l"),
    ("disks", "ls /sys/block | grep -vc '^ram'"),
    ("backing devices info", "ls /sys/class/bdi | wc -l"),
    ("block debugfs", "ls /sys/kernel/debug/block | wc -l"),
    ("nodes", "ls /dev | grep -c ^ubd"),
    ("references to the module", "cat /sys/module/ubd_drv/refcnt"),
    (
        "processes and threads of the driver",
        "ps -eo comm= | grep -cE '^(ubd|fio|fsx|relocate|stress-ng)'",
    ),
    (
        "bpf programs",
        "bpftool -j prog list | grep -o '\"id\":' | wc -l",
    ),
    (
        "bpf maps",
        "bpftool -j map list | grep -o '\"id\":' | wc -l",
    ),
    (
        "bpf links",
        "bpftool -j link list | grep -o '\"id\":' | wc -l",
    ),
    ("pinned programs", "ls /sys/fs/bpf/ubd | wc -l"),
    ("mounts", "wc -l < /proc/mounts"),
    // The lock is everybody's, and stays.
    ("records", "ls -A /run/ubd 2>/dev/null | grep -vcx lock"),
    ("loop devices", "losetup -a | wc -l"),
    ("our files", "ls /proc/$us/fd | wc -l"),
    ("our threads", "ls /proc/$us/task | wc -l"),
];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    exact: BTreeMap<String, u64>,
    /// MiB.
    memory: BTreeMap<&'static str, i64>,
}

impl Census {
    pub fn take() -> Result<Census> {
        sh("sync; echo 3 > /proc/sys/vm/drop_caches; settle")?;
        let (mut exact, us) = (BTreeMap::new(), std::process::id());
        for (name, script) in SCRIPTS {
            let said = sh(format!("us={us}; set +e +o pipefail; {script}; true"))?;
            let number = said.trim().parse();
            exact.insert(
                (*name).to_owned(),
                number.with_context(|| format!("{name}: `{said}`"))?,
            );
        }
        // KASAN keeps freed objects for a while, hence counts them.
        if slowness() == 1 {
            // Shrunk, or what is free on partly used slabs of a CPU counts as in use.
            let objects = sh(
                "for cache in /sys/kernel/slab/ubd_*/shrink; do echo 1 > $cache; done
                 awk '/^ubd/ { print $1, $2 }' /proc/slabinfo",
            )?;
            for line in objects.lines() {
                let (name, number) = line.split_once(' ').context("slabinfo")?;
                exact.insert(format!("objects of {name}"), number.parse()?);
            }
        }
        exact.insert("claimed RAM disks".to_owned(), claimed()?);
        exact.insert("first free number".to_owned(), first_free()?);
        let info = fs::read_to_string("/proc/meminfo")?;
        let mib = |key: &str| -> Result<i64> {
            let line = info.lines().find_map(|line| line.strip_prefix(key));
            let kib: i64 = line
                .and_then(|rest| rest.trim_start_matches(':').split_whitespace().next())
                .with_context(|| format!("no {key} in meminfo"))?
                .parse()?;
            Ok(kib >> 10)
        };
        let memory = BTreeMap::from([
            // A process keeps what it has freed, in huge pages even: it is counted as a process.
            ("available", mib("MemAvailable")? + mib("AnonPages")?),
            ("unreclaimable", mib("SUnreclaim")?),
            ("per CPU", mib("Percpu")?),
        ]);
        Ok(Census { exact, memory })
    }

    /// Waits until everything is as it was; an error with what is not.
    pub fn same_again(&self) -> Result<Census> {
        let start = Instant::now();
        loop {
            let now = Census::take()?;
            let other = self.other_than(&now);
            if other.is_empty() {
                return Ok(now);
            }
            ensure!(
                start.elapsed() < PATIENCE * slowness(),
                "not as before: {}",
                other.join(", ")
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// What is not as it was, in words.
    pub fn other_than(&self, now: &Census) -> Vec<String> {
        let mut other = Vec::new();
        for name in self.exact.keys().chain(now.exact.keys()) {
            let (was, is) = (self.exact.get(name), now.exact.get(name));
            let text = format!("{name} {is:?} instead of {was:?}");
            if was != is && !other.contains(&text) {
                other.push(text);
            }
        }
        let grown = |name| now.memory[name] - self.memory[name];
        for (name, lost, bound) in [
            ("available", -grown("available"), MEMORY_MIB),
            ("unreclaimable", grown("unreclaimable"), UNRECLAIMABLE_MIB),
            ("per CPU", grown("per CPU"), PERCPU_MIB),
        ] {
            if lost > bound {
                other.push(format!("memory, {name}: {lost} MiB are lost"));
            }
        }
        other
    }

    pub fn json(&self) -> Value {
        json!({ "counts": self.exact, "memory_mib": self.memory })
    }
}

/// The number that the next device gets, and gives back.
fn first_free() -> Result<u64> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 1)?;
    let id = ubd.id();
    delete(&control, ubd)?;
    Ok(id.into())
}

/// RAM disks that somebody holds.
fn claimed() -> Result<u64> {
    let mut claimed = 0;
    for entry in fs::read_dir("/dev")?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ram") {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_EXCL);
            claimed += u64::from(options.open(entry.path()).is_err());
        }
    }
    Ok(claimed)
}
