// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured beside the cells: devices that do nothing, and time with several CPUs.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine::{counting, timed, Machines};
use super::table::thousands;

/// One for the machine with a CPU each, up to as many.
const CPUS: u32 = 4;

/// Devices: times, memory, and whether one pays for the others.
pub fn devices(machines: &Machines) -> Result<Value> {
    let guest = machines.guest()?;
    let ios = if machines.quick { 10_000 } else { 100_000 };
    let mut machine = counting();
    // Each of 65 daemons has locked memory.
    machine.memory = Some("8G".to_owned());
    machines.run(&guest, &machine, &format!("devices {ios}"))?;
    read(&guest.dir.join("out/devices.json"))
}

/// I/Os a second with one to four CPUs.
pub fn wall(machines: &Machines) -> Result<Value> {
    let guest = machines.guest()?;
    let seconds = if machines.quick { 2 } else { 6 };
    machines.run(&guest, &timed(CPUS), &format!("wall {seconds}"))?;
    read(&guest.dir.join("out/wall.json"))
}

fn read(path: &std::path::Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("failed to understand `{}`", path.display()))
}

/// Both as text; what is null was not measured.
pub fn text(beside: &Value) -> String {
    let mut text = String::new();
    let devices = &beside["devices"];
    if devices.is_object() {
        let number = |name: &str| thousands(devices[name].as_f64().unwrap_or(f64::NAN));
        let kib = |name: &str| thousands(devices[name].as_f64().unwrap_or(f64::NAN) / 1024.0);
        let _ = write!(
            text,
            "\nDevices (1 CPU; times in instructions)\n\
             ubd add, with a program bound       {:>14}\n\
             the same beside 60 devices          {:>14}\n\
             bind                                {:>14}\n\
             mapped 4 KiB read, 1 device         {:>14}\n\
             the same, the first of {:<3}          {:>14}\n\
             the same, the last of them          {:>14}\n\
             memory of an idle device, kernel    {:>14} KiB\n\
             with its daemon                     {:>14} KiB\n",
            number("add"),
            number("add_among_many"),
            number("bind"),
            number("insn_alone"),
            number("devices"),
            number("insn_among_many_first"),
            number("insn_among_many_last"),
            kib("kernel_bytes_per_device"),
            kib("bytes_per_device"),
        );
        if let Some(bytes) = devices["cluster_map_bytes_per_gib"].as_f64() {
            let _ = writeln!(
                text,
                "memory of a cluster map, per GiB    {:>14} KiB (clusters of {} KiB)",
                thousands(bytes / 1024.0),
                devices["cluster_kib"]
            );
        }
    }
    if let Some(rows) = beside["wall"].as_array() {
        text += "\nTime (4 KiB random read, io_uring QD1; emulated, only ratios mean anything)\n\
                 CPUs   mapped / raw   dm-linear / raw   mapped / dm-linear   (I/Os a second)\n";
        for row in rows {
            let rate = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
            let (raw, dm, mapped) = (rate("raw"), rate("dm-linear"), rate("mapped"));
            let _ = writeln!(
                text,
                "{:<7}{:>12.2}{:>18.2}{:>21.2}",
                row["cpus"],
                mapped / raw,
                dm / raw,
                mapped / dm
            );
        }
    }
    text
}
