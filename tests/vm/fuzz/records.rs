// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/run/ubd` after somebody has been at it: the tools refuse, with a reason, or repair; they do not
//! panic, hang, or serve other bytes.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use super::seed;
use crate::support::io::{read_direct, write_direct};
use crate::support::{sh, wait_for, RamDisk, Ubd};

const DIR: &str = "/run/ubd";
/// What is documented, but for the driver that is missing.
const STATUSES: [i32; 3] = [0, 1, 2];
const BYTES: usize = 1 << 20;

/// The records as they should be, and a device whose record suffers.
struct Records {
    ubd: Ubd,
    /// Of another device.
    other: Ubd,
    content: Vec<u8>,
}

impl Records {
    fn path(&self) -> String {
        format!("{DIR}/{}.json", self.ubd.id())
    }

    /// Does something to the record, or to the directory; says what.
    fn spoil(&self, good: &[u8], rng: &mut Rng) -> Result<String> {
        let path = self.path();
        let mut bytes = good.to_vec();
        let what = match rng.u32(0..16) {
            0..4 => {
                for _ in 0..rng.u32(1..4) {
                    let at = rng.usize(..bytes.len());
                    bytes[at] ^= 1 << rng.u32(..8);
                }
                "bits flipped"
            }
            4 => {
                bytes.truncate(rng.usize(..bytes.len()));
                "cut"
            }
            5 => {
                bytes.fill_with(|| rng.u8(..));
                "noise"
            }
            6 => {
                let others = [
                    "null",
                    "[]",
                    "7",
                    "\"\"",
                    "{\"version\":1}",
                    "{}",
                    "[[[[[[[[",
                ];
                bytes = others[rng.usize(..others.len())].into();
                "other JSON"
            }
            7 => {
                let deep = rng.usize(1..100_000);
                bytes = ["{\"version\":", &"[".repeat(deep)].concat().into();
                "deep JSON"
            }
            8 => {
                bytes = fs::read(format!("{DIR}/{}.json", self.other.id()))?;
                "another's"
            }
            9 => {
                bytes = vec![b' '; 3 << 20];
                "huge"
            }
            n => {
                let (what, script) = [
                    ("a directory", "rm REC; mkdir REC"),
                    ("a link to itself", "rm REC; ln -s REC REC"),
                    ("a link elsewhere", "rm REC; ln -s /etc/passwd REC"),
                    ("a pipe", "rm REC; mkfifo REC"),
                    ("everybody's", "chmod 666 REC"),
                    ("gone", "rm REC"),
                ][n as usize - 10];
                sh(script.replace("REC", &path))?;
                return Ok(what.to_owned());
            }
        };
        fs::write(&path, bytes)?;
        Ok(what.to_owned())
    }

    fn restore(&self, good: &[u8]) -> Result<()> {
        let path = self.path();
        sh(format!("rm -rf {path}"))?;
        fs::write(path, good)?;
        Ok(())
    }

    fn state(&self) -> Result<u16> {
        Ok(Control::open()?.dev_info(self.ubd.id())?.state)
    }

    fn kill_daemon(&self) -> Result<()> {
        sh(format!("kill -KILL {}", self.ubd.pid()?))?;
        wait_for(
            "the daemon to be gone",
            std::time::Duration::from_secs(20),
            || self.state().is_ok_and(|state| state != ublk::S_DEV_LIVE),
        )
    }

    /// Whoever serves it serves the right bytes.
    fn holds(&self) -> Result<()> {
        let is = read_direct(self.ubd.node(), 0, BYTES)?;
        ensure!(is == self.content, "the device shows other bytes");
        Ok(())
    }

    /// A command, which may fail as it is documented.
    fn run(&self, verb: &str) -> Result<()> {
        let words = format!("60 ubd {}", verb.replace("ID", &self.ubd.id().to_string()));
        let output = Command::new("timeout")
            .args(words.split(' '))
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let status = output.status.code();
        ensure!(
            status.is_some_and(|status| STATUSES.contains(&status)) && !said.contains("panicked"),
            "`ubd {verb}` ended with {}: {said}",
            output.status
        );
        ensure!(
            status == Some(0) || said.len() > 10,
            "`ubd {verb}` failed without a word"
        );
        Ok(())
    }
}

pub fn records() -> Result<()> {
    let seed = seed::seed("fuzz/records");
    let mut rng = Rng::with_seed(seed);
    let disks = [RamDisk::new()?, RamDisk::new()?];
    let mut content = vec![0; BYTES];
    content.fill_with(|| rng.u8(..));
    write_direct(disks[0].node(), 1 << 20, &content)?;
    let add = |disk: &RamDisk| {
        Ubd::add(&[&format!(
            "-t loop -f {} --offset 1M --sizelimit 1M --recovery",
            disk.node()
        )])
    };
    let records = Records {
        ubd: add(&disks[0])?,
        other: add(&disks[1])?,
        content,
    };
    let rounds = if seed::long() { 1000 } else { 6 };
    for round in 0..rounds {
        let mut what = String::new();
        one_round(&records, &mut rng, &mut what)
            .with_context(|| format!("round {round} of UBD_SEED={seed}: {what}"))?;
    }
    let good = fs::read(records.path())?;
    records.kill_daemon()?;
    directory(&records)?;
    records.spoil(&good, &mut rng)?;
    let path = records.path();
    // Whatever there is, the device can be deleted.
    records.run("del ID --force")?;
    ensure!(records.state().is_err(), "the device is still there");
    let Records { ubd, other, .. } = records;
    std::mem::forget(ubd);
    sh(format!("rm -rf {path}"))?;
    other.del()
}

fn one_round(records: &Records, rng: &mut Rng, what: &mut String) -> Result<()> {
    let good = fs::read(records.path())?;
    let dead = rng.bool();
    if dead {
        records.kill_daemon()?;
    }
    *what = format!("{}, daemon dead {dead}", records.spoil(&good, rng)?);
    let verb = ["list -J", "stats", "resize ID 1M", "list"][rng.usize(..4)];
    records.run(verb)?;
    records.run(if dead { "recover ID" } else { "upgrade ID" })?;
    // If it was taken for good, it must have been.
    if records.state()? == ublk::S_DEV_LIVE {
        return records.holds().and_then(|()| {
            if !dead || fs::read(records.path()).is_err() {
                records.restore(&good)?;
            }
            Ok(())
        });
    }
    records.restore(&good)?;
    sh(format!("ubd recover {}", records.ubd.id())).context("with the record as it was")?;
    records.holds()
}

/// The directory itself.
fn directory(records: &Records) -> Result<()> {
    for script in [
        "chmod 777 /run/ubd",
        "mv /run/ubd /run/ubd.away; touch /run/ubd",
        "mv /run/ubd /run/ubd.away; ln -s /run/ubd.away /run/ubd",
        "mv /run/ubd /run/ubd.away",
        "chown 65534 /run/ubd",
    ] {
        sh(script)?;
        let result = ["list", "recover ID"]
            .iter()
            .try_for_each(|verb| records.run(verb));
        // What a command has made in its place has no record.
        sh(
            "[ ! -e /run/ubd.away ] || { rm -rf /run/ubd; mv /run/ubd.away /run/ubd; }
            chmod 755 /run/ubd; chown 0 /run/ubd",
        )?;
        result.with_context(|| format!("after `{script}`"))?;
        ensure!(
            records.state()? != ublk::S_DEV_LIVE,
            "a daemon was started, after `{script}`"
        );
    }
    Ok(())
}
