// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the instructions go: QEMU logs every one that the machine executes for a while, and each
//! is put down to the function that it lies in. Exact, unlike sampling.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};

use super::cell::Cell;
use super::machine::{counting, joined, Machines};
use super::symbols::Symbols;

/// The log grows by some 85 bytes an instruction; this is 2 million and more.
const ENOUGH_BYTES: u64 = 200 << 20;
const LONGEST_LOG: Duration = Duration::from_secs(30);
/// fio has opened its files by then.
const START: Duration = Duration::from_secs(12);
/// A path is set up by then.
const PATIENCE: Duration = Duration::from_secs(300);

/// The functions of one cell.
pub struct Profile {
    pub cell: Cell,
    /// Names with their share of all instructions, the largest first.
    pub functions: Vec<(String, f64)>,
    /// Instructions between a bio's arrival at the front disk and at the hidden one (median).
    pub front: Option<f64>,
}

/// Profiles cells of one backing in one boot.
pub fn run(machines: &Machines, backing: &str, cells: &[Cell]) -> Result<Vec<Profile>> {
    let guest = machines.guest()?;
    let all: Vec<usize> = (0..cells.len()).collect();
    machines.write_plan(&guest, cells, &all)?;
    let monitor = guest.dir.join("monitor");
    let mut machine = counting();
    machine.qemu = vec![
        "-monitor".into(),
        format!("unix:{},server,nowait", monitor.display()),
    ];
    thread::scope(|scope| {
        let machine = scope.spawn(|| machines.run(&guest, &machine, &format!("profile {backing}")));
        let out = guest.dir.join("out");
        let profiles = (0..cells.len())
            .map(|index| {
                let ready = out.join(format!("ready-{index}"));
                let start = Instant::now();
                while !ready.exists() {
                    if machine.is_finished() || start.elapsed() > PATIENCE {
                        bail!("failed to profile {}: no I/O", cells[index].id());
                    }
                    thread::sleep(Duration::from_millis(200));
                }
                thread::sleep(START);
                let log = guest.dir.join(format!("instructions-{index}"));
                record(&monitor, &log)?;
                fs::write(out.join(format!("stop-{index}")), "")?;
                let symbols = Symbols::read(&out.join(format!("kallsyms-{index}")))?;
                let profile = evaluate(cells[index], &log, &symbols)?;
                fs::remove_file(&log)?;
                Ok(profile)
            })
            .collect::<Result<Vec<_>>>();
        if profiles.is_err() && !machine.is_finished() {
            // Nobody will tell the guest to stop. The machine's own end is no news then.
            Monitor::open(&monitor)?.say("quit")?;
            let _ = joined(machine);
            return profiles;
        }
        joined(machine)?;
        profiles
    })
}

/// QEMU's monitor.
struct Monitor(UnixStream);

impl Monitor {
    fn open(path: &Path) -> Result<Monitor> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("failed to open QEMU's monitor `{}`", path.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut monitor = Monitor(stream);
        monitor.prompt()?;
        Ok(monitor)
    }

    /// Gives a command and waits until it is done.
    fn say(&mut self, command: &str) -> Result<()> {
        self.0
            .write_all(format!("{command}\n").as_bytes())
            .with_context(|| format!("failed to give QEMU's monitor the command `{command}`"))?;
        if command != "quit" {
            self.prompt()?;
        }
        Ok(())
    }

    fn prompt(&mut self) -> Result<()> {
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"(qemu) ") {
            self.0
                .read_exact(&mut byte)
                .context("QEMU's monitor does not answer")?;
            said.push(byte[0]);
        }
        Ok(())
    }
}

/// Has QEMU log instructions until there are enough.
fn record(monitor: &Path, log: &Path) -> Result<()> {
    let mut monitor = Monitor::open(monitor)?;
    monitor.say("stop")?;
    // One instruction a block of translated code; newer versions of QEMU have renamed it.
    monitor.say("singlestep on")?;
    monitor.say("one-insn-per-tb on")?;
    monitor.say(&format!("logfile {}", log.display()))?;
    monitor.say("log exec,nochain")?;
    monitor.say("cont")?;
    let start = Instant::now();
    let size = || fs::metadata(log).map_or(0, |file| file.len());
    while size() < ENOUGH_BYTES && start.elapsed() < LONGEST_LOG {
        thread::sleep(Duration::from_millis(100));
    }
    monitor.say("stop")?;
    monitor.say("log none")?;
    monitor.say("singlestep off")?;
    monitor.say("one-insn-per-tb off")?;
    monitor.say("cont")
}

/// Counts a log's instructions by function.
fn evaluate(cell: Cell, log: &Path, symbols: &Symbols) -> Result<Profile> {
    let file = File::open(log).with_context(|| format!("failed to open `{}`", log.display()))?;
    let arrival = symbols.address("ubd_submit_bio");
    let handed_on = symbols.address("blk_mq_submit_bio");
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut total = 0;
    let mut arrived = None;
    let mut spans = Vec::new();
    let mut lines = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(address) = address(&line) {
            total += 1;
            *counts.entry(symbols.name(address)).or_default() += 1;
            if Some(address) == arrival {
                arrived = Some(total);
            } else if Some(address) == handed_on {
                spans.extend(arrived.take().map(|start| total - start));
            }
        }
        line.clear();
    }
    if total < 100_000 {
        bail!(
            "QEMU logged only {total} instructions of {}; is its version supported?",
            cell.id()
        );
    }
    let mut functions: Vec<_> = counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count as f64 / total as f64))
        .collect();
    functions.sort_by(|a, b| b.1.total_cmp(&a.1));
    spans.sort_unstable();
    Ok(Profile {
        cell,
        functions,
        front: spans.get(spans.len() / 2).map(|&span: &u64| span as f64),
    })
}

/// The address in a line of the log: `Trace 0: HOST [CS_BASE/ADDRESS/FLAGS/…] …`
fn address(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_prefix("Trace ")?;
    let fields = line.split_once('[')?.1;
    u64::from_str_radix(fields.split('/').nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_understood() {
        let line = b"Trace 0: 0x7f00 [0000000000000000/ffffffff81a2b3c4/00c0b0b0/ff200000] f\n";
        assert_eq!(address(line), Some(0xffff_ffff_81a2_b3c4));
        assert_eq!(
            address(b"Stopped execution of TB chain before 0x7f\n"),
            None
        );
    }
}
