// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's own power fails. `cargo xtask test` boots it, this writes and says what has been
//! synced, the machine is killed in the middle, boots anew, and this looks whether all that was said
//! is there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use crate::support::backing::{noise, same};
use crate::support::sh;

/// What to do: `write`, or `check` and for each of [`DEVICES`] the number of acknowledged records.
pub const TASK: &str = "UBD_POWER_TASK";

/// More than it takes until the machine is killed.
const RECORDS: usize = 500;

/// A file system on a device, on a disk of its own.
struct Device {
    name: &'static str,
    disk: &'static str,
    /// The device is of a file on the disk.
    file: bool,
    options: &'static str,
}

const DEVICES: [Device; 4] = [
    Device {
        name: "mapped",
        disk: "/dev/vda",
        file: false,
        options: "--bpf-fastpath",
    },
    Device {
        name: "declined",
        disk: "/dev/vdb",
        file: false,
        options: "-q 2",
    },
    Device {
        name: "forwarded",
        disk: "/dev/vdc",
        file: false,
        options: "--forward",
    },
    Device {
        name: "file",
        disk: "/dev/vdd",
        file: true,
        options: "--bpf-fastpath --direct-io=on",
    },
];

const MKFS: &str = "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=1 -J size=4";
const FSCK: &str = "e2fsck -fn";

/// Runs the task; its tests are one.
pub fn run(task: &str) -> ExitCode {
    let done = match task.split_once(' ') {
        None if task == "write" => write(),
        Some(("check", acks)) => check(acks),
        _ => Err(anyhow::anyhow!("`{task}` is no task")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            println!("{err:?}");
            ExitCode::FAILURE
        }
    }
}

impl Device {
    fn dir(&self) -> String {
        format!("/mnt/{}", self.name)
    }

    /// Where the file lies.
    fn below(&self) -> String {
        format!("/mnt/{}-below", self.name)
    }

    fn image(&self) -> String {
        match self.file {
            true => format!("{}/image", self.below()),
            false => self.disk.to_owned(),
        }
    }

    /// Mounts the device; `first` makes all that is needed.
    fn mount(&self, number: usize, first: bool) -> Result<()> {
        let make = |what: String| if first { what } else { ":".to_owned() };
        if self.file {
            sh(format!(
                "{}; mkdir -p {below}; mount {} {below}; {}",
                make(format!("{MKFS} {}", self.disk)),
                self.disk,
                make(format!(
                    "dd if=/dev/zero of={} bs=1M count=24 conv=fsync status=none",
                    self.image()
                )),
                below = self.below(),
            ))?;
        }
        let node = format!("/dev/ubdb{number}");
        sh(format!(
            "ubd add -n {number} -t loop -f {} {}; settle
             {}; mkdir -p {dir}; mount {node} {dir}",
            self.image(),
            self.options,
            make(format!("{MKFS} {node}")),
            dir = self.dir(),
        ))?;
        Ok(())
    }
}

fn record(number: usize) -> &'static [u8] {
    noise(number * 7919, 1 + number * 4099 % 40_000)
}

fn write() -> Result<()> {
    sh("insmod $UBD_KO; settle")?;
    for (number, device) in DEVICES.iter().enumerate() {
        device.mount(number, true).context(device.name)?;
    }
    let failed = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = DEVICES
            .iter()
            .map(|device| {
                let failed = &failed;
                scope.spawn(move || {
                    let written = write_records(device, failed);
                    failed.fetch_or(written.is_err(), Ordering::Relaxed);
                    written
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a writer"))
    })?;
    bail!("{RECORDS} records are written, and the machine still runs")
}

/// One file after the other, each synced before it is told of; and what nobody waits for.
fn write_records(device: &Device, failed: &AtomicBool) -> Result<()> {
    let dir = device.dir();
    let unsynced = File::create(Path::new(&dir).join("unsynced"))?;
    for number in 0..RECORDS {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        unsynced.write_all_at(noise(number, 12_000), (number as u64 * 12_000) % (2 << 20))?;
        let path = Path::new(&dir).join(format!("record-{number}"));
        let file = File::create(path)?;
        file.write_all_at(record(number), 0)?;
        file.set_len(record(number).len() as u64)?;
        file.sync_all()?;
        println!("acknowledged {} {number}", device.name);
    }
    Ok(())
}

fn check(acks: &str) -> Result<()> {
    sh("insmod $UBD_KO; settle")?;
    let acks: Vec<usize> = acks
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("the numbers of records")?;
    ensure!(acks.len() == DEVICES.len(), "numbers for other devices");
    for ((number, device), acks) in DEVICES.iter().enumerate().zip(acks) {
        check_records(number, device, acks).context(device.name)?;
        println!("{}: all of {acks} records are there", device.name);
    }
    Ok(())
}

fn check_records(number: usize, device: &Device, acks: usize) -> Result<()> {
    device.mount(number, false).context("mounting again")?;
    for record_number in 0..acks {
        let path = format!("{}/record-{record_number}", device.dir());
        let is = fs::read(&path).with_context(|| format!("reading `{path}`"))?;
        same(&is, record(record_number)).with_context(|| path)?;
    }
    sh(format!(
        "umount {}; {FSCK} /dev/ubdb{number}; ubd del {number}",
        device.dir()
    ))?;
    if device.file {
        sh(format!("umount {}; {FSCK} {}", device.below(), device.disk))?;
    }
    Ok(())
}
