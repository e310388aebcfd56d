// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine is killed while it writes, and boots again with the same disks.
//!
//! QEMU writes the disks through the host's page cache (`cache=writeback`, its default), which
//! outlives it. So this shows what had not left the guest when it was told to be durable, at every
//! layer at once; what a disk would lose of its own cache, it does not. That is for the tests that
//! replay logs of writes (`crash/`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{log_scan, test, vm};

/// By this name it can be asked for.
const NAME: &str = "shutdown/power_loss";

/// What the guest's program is told to do.
const TASK: &str = "UBD_POWER_TASK";

/// Its devices, in its order, each on a disk of its own.
const DEVICES: [&str; 4] = ["mapped", "declined", "forwarded", "file"];
const DISK: &str = "64M";

/// Acknowledged records of each device before the power goes.
const ENOUGH: usize = 25;

/// How long the machine may take to come so far.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether the test is among those that are wanted.
pub fn is_wanted(filter: &[OsString]) -> bool {
    let names = |filter: &OsString| NAME.contains(&*filter.to_string_lossy());
    filter.is_empty() || filter.iter().any(names)
}

/// Whether nothing else is.
pub fn is_all(filter: &[OsString]) -> bool {
    let means = |filter: &OsString| {
        let filter = filter.to_string_lossy();
        filter.contains("power_loss") && NAME.contains(&*filter)
    };
    !filter.is_empty() && filter.iter().all(means)
}

/// Runs the test; `guest` has the driver and the program `vm-test`. 1 if it failed.
pub fn test(kernel: &Kernel, machine: &vm::Machine, guest: Guest) -> Result<u8> {
    let machine = vm::Machine {
        disks: vec![DISK.to_owned(); DEVICES.len()],
        ..machine.clone()
    };
    let command = [OsString::from(test::PROGRAM)];
    let start = Instant::now();
    let guest = guest.with_env(TASK, "write");
    let mut acks = lose_power(kernel, &machine, &guest, &command);
    if acks.is_err() && vm::may_boot_again(&guest)? {
        acks = lose_power(kernel, &machine, &guest, &command);
    }
    let acks = match acks {
        Ok(acks) => acks,
        Err(err) => {
            println!("test {NAME} ... FAILED\n{err:#}");
            return Ok(1);
        }
    };
    let acks = acks.map(|acks| acks.to_string()).join(" ");
    println!("the power goes after {acks} acknowledged records");
    guest.forget()?;
    let guest = guest.with_env(TASK, &format!("check {acks}"));
    let code = vm::run(kernel, &machine, &guest, &command)?;
    println!(
        "test {NAME} ... {} ({:.1} s)",
        if code == 0 { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    Ok(u8::from(code != 0))
}

/// Boots, and kills QEMU when every device has acknowledged enough; gives the numbers.
fn lose_power(
    kernel: &Kernel,
    machine: &vm::Machine,
    guest: &Guest,
    command: &[OsString],
) -> Result<[usize; DEVICES.len()]> {
    let mut qemu = vm::start_machine(kernel, machine, guest, command)?;
    let console = vm::kernel_log(guest);
    let log = vm::pump(qemu.stderr.take(), File::create(&console));
    let said = qemu.stdout.take().context("QEMU has no output")?;
    let (to, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                break;
            }
        }
    });
    let result = count(&lines);
    // SIGKILL: nothing is told to anybody. It may just have ended by itself.
    let _ = qemu.kill();
    qemu.wait().context("failed to wait for QEMU")?;
    // What had come out by then was acknowledged, too.
    let result = result.and_then(|mut acks| {
        for line in lines.iter() {
            note(&line, &mut acks)?;
        }
        Ok(acks)
    });
    ensure!(
        reader.join().is_ok() && matches!(log.join(), Ok(Ok(_))),
        "failed to pass on the guest's output"
    );
    let log = fs::read(&console)?;
    let complaints = log_scan::complaints(&String::from_utf8_lossy(&log));
    ensure!(
        complaints.is_empty(),
        "the kernel complained:\n{}",
        complaints.join("\n")
    );
    result
}

fn count(lines: &mpsc::Receiver<String>) -> Result<[usize; DEVICES.len()]> {
    let end = Instant::now() + PATIENCE;
    let mut acks = [0; DEVICES.len()];
    while acks.iter().any(|acks| *acks < ENOUGH) {
        let line = lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .with_context(|| format!("the guest has come no further than {acks:?}"))?;
        note(&line, &mut acks)?;
    }
    Ok(acks)
}

/// Takes note of a line such as `acknowledged mapped 7`; the records of a device are in order.
fn note(line: &str, acks: &mut [usize; DEVICES.len()]) -> Result<()> {
    let mut words = line.split_whitespace();
    let (Some("acknowledged"), Some(name), Some(number)) =
        (words.next(), words.next(), words.next())
    else {
        println!("{line}");
        return Ok(());
    };
    let Some(device) = DEVICES.iter().position(|device| *device == name) else {
        bail!("the guest speaks of a device `{name}`");
    };
    ensure!(
        number.parse() == Ok(acks[device]),
        "record {number} of `{name}` after {}",
        acks[device]
    );
    acks[device] += 1;
    Ok(())
}
