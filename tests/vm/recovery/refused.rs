// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that cannot have another daemon, and why.

use std::fs;

use anyhow::{ensure, Context, Result};

use ubd_bpf::daemon::record::Record;

use super::{kill_daemon, record, recover};
use crate::support::io::{read_direct, write_direct};
use crate::support::{fails, sh, Background, Files, RamDisk, Ubd};

/// `ubd recover` fails with `code`, for a reason that has these words.
fn says(ubd: &Ubd, code: i32, words: &str) -> Result<()> {
    let said = fails(code, format!("ubd recover {}", ubd.id()))?;
    ensure!(said.contains(words), "`ubd recover` says `{said}`");
    Ok(())
}

pub fn refused() -> Result<()> {
    fails(1, "ubd recover 1000")?;
    fails(1, "ubd upgrade 1000")?;
    fails(1, "ubd resize 1000 max")?;

    let plain = Ubd::add(&["-t null -s 16M"])?;
    says(&plain, 2, "not made to")?;
    ensure!(fails(2, format!("ubd upgrade {}", plain.id()))?.contains("not made to"));
    kill_daemon(&plain, "fail_io")?;
    says(&plain, 2, "not made to")?;
    drop(plain);

    let ubd = Ubd::add(&["-t null -s 16M --recovery"])?;
    says(&ubd, 2, "still serves it")?;
    read_direct(ubd.node(), 0, 4096).context("a refused `ubd recover` has harmed the device")?;
    kill_daemon(&ubd, "quiesced")?;
    ensure!(fails(2, format!("ubd upgrade {}", ubd.id()))?.contains("ubd recover"));
    recover(&ubd)?;
    read_direct(ubd.node(), 0, 4096)?;
    ubd.del()
}

/// A record that is gone, is that of another device, or is no record: the device waits on.
pub fn spoilt_records() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M --recovery"])?;
    kill_daemon(&ubd, "quiesced")?;
    let path = record(&ubd);
    let good = fs::read_to_string(&path)?;
    let other = {
        let mut other = Record::parse(good.as_bytes())?;
        other.token = 1;
        other.text()?
    };
    let damaged = good.replacen("16777216", "16777728", 1);
    let cut = &good[..good.len() / 2];
    let version = good.replacen("\"version\":1", "\"version\":7", 1);
    for (text, code, words) in [
        (other.as_str(), 2, "earlier device"),
        (cut, 2, "not a record"),
        ("", 2, "not a record"),
        (&version, 2, "version 7"),
        (&damaged, 2, "damaged"),
    ] {
        fs::write(&path, text)?;
        says(&ubd, code, words)?;
    }
    fs::remove_file(&path)?;
    says(&ubd, 1, "there is none")?;
    sh(format!("mkfifo {path}"))?;
    says(&ubd, 2, "not a regular file")?;
    fs::remove_file(&path)?;
    fs::write("/tmp/record.json", &good)?;
    std::os::unix::fs::symlink("/tmp/record.json", &path)?;
    says(&ubd, 2, "symbolic link")?;
    fs::remove_file(&path)?;
    fs::write(&path, &good)?;
    sh(format!("chmod 666 {path}"))?;
    says(&ubd, 2, "written by others")?;
    sh(format!("chmod 644 {path}; chown 65534 {path}"))?;
    says(&ubd, 2, "belongs to user 65534")?;
    sh(format!("chown 0 {path}"))?;
    recover(&ubd)?;
    read_direct(ubd.node(), 0, 4096)?;
    ubd.del()
}

/// What is behind the device is not what it was.
pub fn another_backing() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("disk", 16 << 20)?;
    let shown = path.display();
    let ubd = Ubd::add(&["-t loop --recovery -f", &shown.to_string()])?;
    write_direct(ubd.node(), 0, &[7; 4096])?;
    kill_daemon(&ubd, "quiesced")?;

    sh(format!("mv {shown} {shown}.away"))?;
    says(&ubd, 1, "failed to find")?;
    // The same inode number, maybe: ext4 gives the lowest that is free.
    sh(format!("truncate -s 16M {shown}"))?;
    says(&ubd, 2, "another file")?;
    sh(format!("mv {shown}.away {shown}; truncate -s 1M {shown}"))?;
    says(&ubd, 2, "smaller")?;
    sh(format!("truncate -s 16M {shown}"))?;
    recover(&ubd)?;
    ensure!(read_direct(ubd.node(), 0, 4096)? == [7; 4096]);
    ubd.del()
}

/// Several who recover the same device: one does.
pub fn two_at_once() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop --recovery -f", &disk.node()])?;
    for _ in 0..4 {
        kill_daemon(&ubd, "quiesced")?;
        let all: Vec<_> = (0..4)
            .map(|_| Background::start(format!("ubd recover {}", ubd.id())))
            .collect::<Result<_>>()?;
        let results: Vec<_> = all.into_iter().map(Background::finish).collect();
        let good = results.iter().filter(|result| result.is_ok()).count();
        ensure!(
            good == 1,
            "{good} of 4 have recovered the device: {results:?}"
        );
        read_direct(ubd.node(), 0, 4096)?;
    }
    // Whoever could open it could keep us all from our work.
    ensure!(sh("stat -c %a /run/ubd/lock")? == "600");
    ubd.del()
}
