// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whoever starts the next daemon loses patience, while the old one has not let go of the device.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context, Result};

use super::{is_in, recover, SOON};
use crate::support::io::read_direct;
use crate::support::{wait_for, RamDisk, Ubd};

/// Keeps the character node of `ubd` open when the daemon dies, as its last operation would.
/// Nobody can take the device over until this is closed.
fn kept_open(ubd: &Ubd) -> Result<OwnedFd> {
    let pid = ubd.pid()?;
    let node = format!("/dev/ubdc{}", ubd.id());
    let number: i32 = fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .find(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(&node)))
        .and_then(|fd| fd.file_name().to_str()?.parse().ok())
        .with_context(|| format!("daemon {pid} does not have {node} open"))?;
    let opened = |fd: libc::c_long| {
        ensure!(fd >= 0, std::io::Error::last_os_error());
        // SAFETY: the kernel has just made it, for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    };
    // SAFETY: takes numbers alone.
    let daemon = opened(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: takes numbers alone.
    opened(unsafe { libc::syscall(libc::SYS_pidfd_getfd, daemon.as_raw_fd(), number, 0) })
}

/// Kills the daemon. As long as it lives `ubd recover` has nothing to wait for.
fn kill(ubd: &Ubd) -> Result<u32> {
    let pid = ubd.pid()?;
    // SAFETY: signals a process; no memory is involved.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    wait_for("the daemon to be gone", SOON, || {
        !Path::new(&format!("/proc/{pid}")).exists()
    })?;
    Ok(pid)
}

/// Interrupts a command once `daemon`, given its process, gives the one that will be the daemon
/// and that has blocked the signals: it waits for the old one then.
fn interrupt(mut starter: Child, daemon: impl Fn(u32) -> Option<u32>) -> Result<Child> {
    let pid = starter.id();
    let waits = wait_for("the command to wait", SOON, || {
        daemon(pid).is_some_and(|daemon| blocks_interrupts(daemon).unwrap_or(false))
    });
    if let Err(err) = waits {
        let _ = starter.kill();
        return Err(err.context(format!("{:?}", starter.wait())));
    }
    // SAFETY: signals a child that has not been waited for.
    unsafe { libc::kill(pid as i32, libc::SIGINT) };
    Ok(starter)
}

fn blocks_interrupts(pid: u32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = u64::from_str_radix(blocked.context("no SigBlk")?.trim(), 16)?;
    let blocks = |signal: i32| blocked & 1 << (signal - 1) != 0;
    // Who starts a thread blocks them all, for a moment.
    Ok(blocks(libc::SIGINT) && !blocks(libc::SIGUSR1))
}

/// `ubd recover` or `upgrade`.
fn taking_over(verb: &str, ubd: &Ubd) -> Command {
    let mut command = Command::new("ubd");
    command.arg(verb).arg(ubd.id().to_string());
    command
}

/// Looked up here: where starting `pgrep` takes seconds, the command has lost its own patience first.
fn only_child(pid: u32) -> Option<u32> {
    let parent = format!("PPid:\t{pid}");
    let is_child = |process: &u32| {
        fs::read_to_string(format!("/proc/{process}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == parent))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut children = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child);
    let child = children.next()?;
    children.next().is_none().then_some(child)
}

/// Another daemon serves the device.
fn has_survived(ubd: &Ubd, old: u32) -> Result<()> {
    wait_for("another daemon", SOON, || {
        ubd.pid().is_ok_and(|pid| pid != old)
    })?;
    is_in(ubd, "live")?;
    ensure!(read_direct(ubd.node(), 0, 4096)? == [0; 4096]);
    Ok(())
}

pub fn interrupted() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop --recovery -f", &disk.node()])?;

    // In the background the new daemon comes without its starter.
    for verb in ["recover", "upgrade"] {
        let node = kept_open(&ubd)?;
        let old = match verb {
            "recover" => kill(&ubd)?,
            _ => ubd.pid()?,
        };
        let mut starter = interrupt(taking_over(verb, &ubd).spawn()?, only_child)?;
        ensure!(starter.wait()?.signal() == Some(libc::SIGINT));
        drop(node);
        has_survived(&ubd, old).with_context(|| format!("`ubd {verb}` was interrupted"))?;
    }

    // In the foreground it is the daemon that is interrupted, and looks when it has the device.
    let node = kept_open(&ubd)?;
    let old = kill(&ubd)?;
    let mut command = taking_over("recover", &ubd);
    command.arg("--foreground").stderr(Stdio::piped());
    let daemon = interrupt(command.spawn()?, Some)?;
    drop(node);
    let ended = daemon.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        !ended.status.success() && said.contains("interrupted"),
        "it ended with {}, and says `{said}`",
        ended.status
    );
    is_in(&ubd, "quiesced").context("the daemon was interrupted")?;
    recover(&ubd)?;
    has_survived(&ubd, old)?;
    ubd.del()
}
