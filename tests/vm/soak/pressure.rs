// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that has neither memory nor time.

use anyhow::Result;

use super::stage::Worker;
use crate::support::sh;

/// What a hog leaves to all others, MiB: they are to be short of memory, not to be killed.
const LEFT_MIB: u64 = 350;

const PRESSURES: [(&str, &str); 6] = [
    ("no memory", "mib=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
        [ $mib -lt LEFT ] || stress-ng --quiet --oomable --vm 1 --vm-bytes $((mib - LEFT))M --vm-keep --vm-method write64 --timeout 6"),
    ("no time", "stress-ng --quiet --cpu 2 --timeout 4"),
    ("threads that come and go", "stress-ng --quiet --clone 1 --switch 1 --timeout 4"),
    ("no caches", "echo 3 > /proc/sys/vm/drop_caches"),
    ("compaction", "echo 1 > /proc/sys/vm/compact_memory"),
    ("sync", "sync"),
];

pub fn lasts(worker: &mut Worker) -> Result<()> {
    while worker.stage.goes_on() {
        let (name, script) = worker.pick(&PRESSURES);
        let script = script.replace("LEFT", &LEFT_MIB.to_string());
        worker.event(name, |_| sh(script).map(drop))?;
        worker.does("rest");
        worker.pause(4000);
    }
    Ok(())
}
