// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does KVM work here? `/dev/kvm` alone says little: on some nested machines QEMU aborts as soon
//! as the guest starts. So a guest is started, and the answer kept until the machine reboots.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cache;
use crate::kernel::Kernel;

/// True if a guest with this kernel gets as far as naming itself under KVM.
pub fn works(kernel: &Kernel) -> Result<bool> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("failed to read the machine's boot id")?;
    let key = cache::key([boot.trim()]);
    let answer = cache::dir()?.join(format!("kvm-probe-{}", kernel.version));
    if let Some((known, answer)) = fs::read_to_string(&answer)
        .unwrap_or_default()
        .split_once(' ')
    {
        if known == key {
            return Ok(answer == "yes");
        }
    }
    let works = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
        && probe(kernel)?;
    fs::write(
        &answer,
        format!("{key} {}", if works { "yes" } else { "no" }),
    )?;
    Ok(works)
}

fn probe(kernel: &Kernel) -> Result<bool> {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-smp",
            "2",
            "-m",
            "512M",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio", "-kernel"])
        .arg(&kernel.image)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("failed to run `qemu-system-x86_64`")?;
    let Some(console) = qemu.stdout.take() else {
        return Ok(false);
    };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Without a root file system the kernel ends in a panic: it has run all its own code.
        let lines = BufReader::new(console).lines().map_while(|line| line.ok());
        let seen = lines.into_iter().any(|line| line.contains("Kernel panic"));
        // The receiver is gone only after its time limit.
        let _ = tell.send(seen);
    });
    let seen = told.recv_timeout(Duration::from_secs(30)).unwrap_or(false);
    // It may have ended by itself.
    let _ = qemu.kill();
    qemu.wait()?;
    Ok(seen)
}
