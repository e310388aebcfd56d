// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices of people without privileges: who may add, control and open them.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use crate::support::{fails, sh, Files, Ubd};

/// `nobody`, and somebody else.
const OWNER: u32 = 65534;
const OTHER: u32 = 12345;

/// Runs a shell command as user and group `id`, without any capability.
fn run_as(id: u32, script: &str) -> Result<String> {
    let out = Command::new("sh")
        .args(["-c", script])
        .uid(id)
        .gid(id)
        .output()
        .context("failed to run a shell")?;
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    ensure!(out.status.success(), "`{script}` as {id}: {text}");
    Ok(text)
}

/// The control node for everybody, as a udev rule of an administrator would give it.
pub struct OpenControl;

impl OpenControl {
    pub fn new() -> Result<OpenControl> {
        sh("chmod 666 /dev/ubd-control; ln -sfn ubd-control /dev/ublk-control")?;
        Ok(OpenControl)
    }
}

impl Drop for OpenControl {
    fn drop(&mut self) {
        let _ =
            sh("chmod 600 /dev/ubd-control; find /dev -maxdepth 1 -name 'ublk*' -type l -delete");
    }
}

/// A whole life with a server of the registry, which knows nothing of ubd.
pub fn unprivileged() -> Result<()> {
    let _open = OpenControl::new()?;
    let (id, files) = (30, Files::ext4()?);
    let backing = files.file("backing", 32 << 20)?;
    let path = backing.display();
    sh(format!(
        "chmod 755 {}; chown {OWNER}:{OWNER} {path}; \
         ln -sfn ubdc{id} /dev/ublkc{id}; ln -sfn ubdb{id} /dev/ublkb{id}",
        files.dir().display()
    ))?;

    // Not without the flag, and not with what only root's servers are trusted with.
    for refused in [format!("loop -f {path}"), "null -p -u".to_owned()] {
        let added = run_as(
            OWNER,
            &format!("timeout 60 rublk add {refused} -n {id} --foreground"),
        );
        let there = Control::open()?.dev_info(id).is_ok();
        let device = there.then(|| Ubd::adopt(id));
        ensure!(
            added.is_err() && device.is_none(),
            "`rublk add {refused}` worked"
        );
    }

    let mut server = Command::new("rublk")
        .args(["add", "loop", "-p", "-n"])
        .arg(id.to_string())
        .arg("-f")
        .arg(&backing)
        .arg("--foreground")
        .env("HOME", "/tmp")
        .uid(OWNER)
        .gid(OWNER)
        .spawn()
        .context("failed to run rublk")?;
    let device = Ubd::adopt(id);
    let tested = used_by_its_owner(&device).and_then(|()| stopped_by_its_owner(&device, &server));
    let deleted = device.del();
    let _ = server.kill();
    server.wait()?;
    tested.and(deleted)
}

/// Nobody waits for ever for a server that anybody could start: one that stands still is ended.
fn stopped_by_its_owner(device: &Ubd, server: &Child) -> Result<()> {
    sh(format!("kill -STOP {}", server.id()))?;
    let read = format!(
        "timeout -s KILL 150 dd if={} of=/dev/null bs=4k count=1 iflag=direct",
        device.node()
    );
    fails(1, read).context("a read that its server never sees")?;
    Ok(())
}

fn used_by_its_owner(device: &Ubd) -> Result<()> {
    let id = device.id();
    crate::support::wait_for("the disk", Duration::from_secs(30), || {
        device.attr("ubd/state").is_ok_and(|state| state == "live")
    })?;
    sh("settle")?;
    let flags = Control::open()?.dev_info(id)?.flags;
    ensure!(flags & ublk::F_UNPRIVILEGED_DEV != 0, "flags {flags:#x}");
    ensure!(flags & ublk::F_USER_RECOVERY == 0, "flags {flags:#x}");
    let owner = sh(format!("stat -c %u:%g /dev/ubdc{id}"))?;
    ensure!(
        owner == format!("{OWNER}:{OWNER}"),
        "the char node is {owner}'s"
    );
    for (attr, is) in [("owner_uid", OWNER), ("owner_gid", OWNER)] {
        ensure!(
            device.attr(&format!("ubd/{attr}"))? == is.to_string(),
            "{attr}"
        );
    }

    // The disk: whatever a node's permissions, the owner alone, beside root. udev takes back those of
    // its own node whenever somebody has written.
    let open_to_all = "/dev/open-to-all";
    sh(format!(
        "mknod -m 666 {open_to_all} b $(stat -c '0x%t 0x%T' {})",
        device.node()
    ))?;
    let io = format!("dd if=/dev/zero of={open_to_all} bs=4k count=1 oflag=direct 2>&1");
    let (owners, strangers) = (run_as(OWNER, &io), run_as(OTHER, &io));
    std::fs::remove_file(open_to_all)?;
    owners?;
    let said = strangers.err().context("a stranger has written to it")?;
    ensure!(
        format!("{said:#}").contains("Operation not permitted"),
        "{said:#}"
    );
    // No slots, no programs, for nobody.
    for cmd in ["slot add", "bind"] {
        let what = if cmd == "bind" { "linear" } else { "/dev/null" };
        let said = sh(format!("ubd-bpf {cmd} {id} {what} 2>&1"));
        ensure!(said.is_err(), "`ubd-bpf {cmd}` worked: {said:?}");
    }
    // Others may not control it, its owner may.
    let del = format!("timeout 60 rublk del -n {id} 2>&1");
    let _ = run_as(OTHER, &del);
    ensure!(
        Control::open()?.dev_info(id).is_ok(),
        "a stranger has deleted it"
    );
    let dump = run_as(OWNER, &format!("rublk list -n {id} 2>&1"))?;
    ensure!(
        dump.contains("dev id") || dump.contains("LIVE"),
        "`rublk list`: {dump}"
    );
    Ok(())
}
