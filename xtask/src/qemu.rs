// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::vm::Machine;
use crate::{host, kvm, virtme};

/// Where the scratch disk of that number lies; a file that is there already is kept as it is.
pub fn disk_path(guest: &Guest, number: usize) -> PathBuf {
    guest.dir.join(format!("disk{number}.raw"))
}

/// virtme-run with two settings that it has no options for: x86's own limit for a kernel command
/// line instead of the smallest of all machines (past it, it would write into the shared tree), and
/// a cache for the read-only root, without which every program is read anew each time it starts.
const VIRTME_RUN: &str = "
from virtme import mkinitramfs
from virtme.commands import run
run.KERNEL_CMDLINE_MAX = 2047
options = 'msize=524288'
assert options in mkinitramfs._MOUNT_ROOT_HOST
mkinitramfs._MOUNT_ROOT_HOST = mkinitramfs._MOUNT_ROOT_HOST.replace(options, options + ',cache=loose')
raise SystemExit(run.main())";

/// As a line of shell; virtme-ng works it out.
pub fn command(kernel: &Kernel, machine: &Machine, guest: &Guest, shell: bool) -> Result<String> {
    let python = virtme::ensure()?;
    // KASAN's shadow and what kmemleak remembers take a third.
    let usual = if kernel.custom.is_some() { "4G" } else { "2G" };
    let memory = machine.memory.as_deref().unwrap_or(usual);
    let share = |name: &str, dir: &Path| format!("ubd/{name}={}", dir.display());
    let mut virtme = Command::new(python);
    virtme
        .args([
            "-c",
            VIRTME_RUN,
            "--dry-run",
            "--show-command",
            "--mods",
            "auto",
        ])
        .args([
            "--force-9p",
            "--force-initramfs",
            "--user",
            "root",
            "--kimg",
        ])
        .arg(&kernel.image)
        .arg("--root")
        .arg(&kernel.rootfs)
        .arg("--busybox")
        .arg(kernel.rootfs.join("usr/bin/busybox"))
        .arg("--save-initramfs")
        .arg(guest.dir.join("initramfs"))
        .args(["--rodir", &share("repo", &host::repo())])
        .args(["--rodir", &share("run", &guest.dir.join("run"))])
        .args(["--rwdir", &share("out", &guest.dir.join("out"))])
        .args(["--memory", memory])
        .args([
            "--cpus",
            &if machine.icount { 1 } else { machine.cpus }.to_string(),
        ]);
    if let Some(custom) = &kernel.custom {
        virtme.args(["--rodir", &share("modules", &custom.modules)]);
    }
    if shell {
        virtme.args(["--shell", "/ubd/run/shell.sh"]);
    } else {
        virtme.args([
            "--show-boot-console",
            "--script-sh",
            "exec sh /ubd/run/run.sh",
        ]);
    }
    if machine.icount || !kvm::works(kernel)? {
        virtme.arg("--disable-kvm");
    }
    // A kernel bug ends the machine at once. A busy host under emulation is no reason for alarm,
    // so the watchdogs are patient.
    let parameters = [
        "loglevel=5",
        "oops=panic",
        "panic=-1",
        "watchdog_thresh=60",
        "rcupdate.rcu_cpu_stall_timeout=90",
        "log_buf_len=4M",
        "udev.children_max=4",
    ];
    // Five levels of page tables are slow to emulate, and KASAN of 6.12 trips over them early in boot.
    let debug: &[&str] = match &kernel.custom {
        Some(custom) if custom.debug => &["no5lvl", "no_debug_objects", "kasan_multi_shot"],
        // What else it watches by itself takes its time.
        Some(_) => &[
            "no5lvl",
            "kmemleak=off",
            "no_debug_objects",
            "kasan_multi_shot",
        ],
        None => &["no5lvl"],
    };
    // Counting, an idle guest's clock jumps ahead of the host's disks: any wait looks endless.
    let jumping: &[&str] = if machine.icount {
        &["nowatchdog", "sysctl.kernel.hung_task_timeout_secs=0"]
    } else {
        &[]
    };
    let parameters = parameters
        .into_iter()
        .chain(debug.iter().chain(jumping).copied());
    for parameter in parameters.chain(machine.append.iter().map(String::as_str)) {
        virtme.args(["-a", parameter]);
    }
    virtme.args(["--qemu-opts", "-no-reboot"]);
    if machine.icount {
        virtme.args(["-icount", "shift=0,sleep=off"]);
        // `rep movsb`, with which kernels copy to and from user space where a CPU is said to be fast
        // at it, would count once a byte; without, they copy eight bytes an instruction.
        virtme.args(["-cpu", "max,-erms"]);
    }
    for (number, size) in machine.disks.iter().enumerate() {
        let path = disk_path(guest, number);
        host::output(Command::new("truncate").args(["-s", size]).arg(&path))?;
        virtme.arg("-drive").arg(format!(
            "if=virtio,format=raw,discard=unmap,file={}",
            path.display()
        ));
    }
    virtme.args(&machine.qemu);
    let line = host::output(virtme.env("TMPDIR", guest.dir.join("tmp")))
        .context("failed to work out the QEMU command line")?;
    if line.contains("/virtme-init-") {
        bail!("failed to fit the kernel's command line into its limit; shorten the paths or `--append`");
    }
    Ok(line.trim().to_owned())
}
