// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots the virtual machine and brings back output, exit code and kernel log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use clap::Args;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{host, kmod, kvm, log_scan, programs, virtme};

/// The machine's hardware.
#[derive(Args, Clone)]
pub struct Machine {
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 2)]
    pub cpus: u32,

    /// Memory, as QEMU takes it [default: 2G, for a self-built kernel 4G]
    #[arg(long)]
    pub memory: Option<String>,

    /// Count instructions: one a nanosecond of guest time, exactly repeatable; slow, one CPU, no KVM
    #[arg(long)]
    pub icount: bool,

    /// An empty scratch disk, /dev/vda and so on; may be repeated
    #[arg(long = "disk", value_name = "SIZE")]
    pub disks: Vec<String>,

    /// More for the kernel's command line; may be repeated
    #[arg(long, value_name = "PARAMETER")]
    pub append: Vec<String>,

    /// End the machine after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// More for QEMU's command line
    #[arg(skip)]
    pub qemu: Vec<String>,
}

impl Machine {
    /// What the options say if there are none.
    pub fn usual() -> Machine {
        Machine {
            cpus: 2,
            memory: None,
            icount: false,
            disks: Vec::new(),
            append: Vec::new(),
            timeout: None,
            qemu: Vec::new(),
        }
    }
}

/// `cargo xtask vm`
#[derive(Args)]
pub struct VmArgs {
    #[command(flatten)]
    machine: Machine,

    /// Do not build and bring the module and the programs
    #[arg(long)]
    bare: bool,

    /// The command to run; a shell if there is none
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// `cargo xtask vm`: exits as the command does, or 1 if the kernel complained.
pub fn command(kernel: &Kernel, args: VmArgs) -> Result<u8> {
    let mut guest = Guest::new()?;
    if !args.bare {
        guest = with_ubd(guest, kernel)?;
    }
    run(kernel, &args.machine, &guest, &args.command)
}

/// Gives the guest the module (`$UBD_KO`), the programs and the BPF objects:
/// `$UBD_BPF_DIR` has those for tests, its parent those that ship.
pub fn with_ubd(guest: Guest, kernel: &Kernel) -> Result<Guest> {
    let module = kmod::build(kernel)?;
    guest.copy(&module, "ubd_drv.ko")?;
    for program in programs::shipped()? {
        guest.program(&program)?;
    }
    // build.rs leaves them there.
    guest.copy_tree(&host::target().join("bpf"), "bpf")?;
    Ok(guest
        .with_env("UBD_BPF_DIR", "/ubd/run/bpf/tests")
        .with_env("UBD_KO", "/ubd/run/ubd_drv.ko"))
}

/// Boots, runs `command` (a shell if empty) and scans the kernel log.
pub fn run(kernel: &Kernel, machine: &Machine, guest: &Guest, command: &[OsString]) -> Result<u8> {
    let status = boot(kernel, machine, guest, command, io::stdout())?;
    verdict(guest, &kernel_log(guest), status)
}

/// Where the machine's console goes.
pub fn kernel_log(guest: &Guest) -> PathBuf {
    guest.dir.join("kernel.log")
}

/// Boots and runs `command` to its end, whatever that is; what it prints goes to `to`. None: the
/// machine had to be ended.
pub fn boot(
    kernel: &Kernel,
    machine: &Machine,
    guest: &Guest,
    command: &[OsString],
    to: impl Write + Send + 'static,
) -> Result<Option<ExitStatus>> {
    let kernel_log = kernel_log(guest);
    let start = Instant::now();
    let mut qemu = start_machine(kernel, machine, guest, command)?;
    let log = qemu
        .stderr
        .take()
        .map(|from| pump(from, File::create(&kernel_log)));
    let output = qemu
        .stdout
        .take()
        .map(|from: ChildStdout| pump(from, Ok(to)));
    let status = wait(
        &mut qemu,
        machine.timeout.map(Duration::from_secs),
        guest,
        start,
    )?;
    for thread in [log, output].into_iter().flatten() {
        match thread.join() {
            Ok(result) => result.context("failed to pass on the guest's output")?,
            Err(_) => bail!("failed to pass on the guest's output"),
        }
    }
    for number in 0..machine.disks.len() {
        fs::remove_file(disk_path(guest, number)).context("failed to remove a scratch disk")?;
    }
    Ok(status)
}

/// Starts QEMU. Its stdout, which is piped if there is a command, carries what that prints, its
/// stderr the guest's console.
pub fn start_machine(
    kernel: &Kernel,
    machine: &Machine,
    guest: &Guest,
    command: &[OsString],
) -> Result<Child> {
    guest.seal(command)?;
    let script = qemu_command(kernel, machine, guest, command.is_empty())?;
    // setpriv: the machine must not outlive us, however we end.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "sh", "-c", &format!("exec {script}")])
        .env("TMPDIR", guest.dir.join("tmp"))
        .stdin(if command.is_empty() {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .stdout(if command.is_empty() {
            Stdio::inherit()
        } else {
            Stdio::piped()
        })
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to run `setpriv`")
}

/// What the run says: the kernel's complaints come first, then the command's exit code.
fn verdict(guest: &Guest, kernel_log: &Path, status: Option<ExitStatus>) -> Result<u8> {
    let log = fs::read(kernel_log)
        .with_context(|| format!("failed to read `{}`", kernel_log.display()))?;
    let log = String::from_utf8_lossy(&log);
    let complaints = log_scan::complaints(&log);
    if !complaints.is_empty() && guest.started() {
        for complaint in &complaints {
            eprintln!("\nthe kernel complained:\n{complaint}");
        }
        eprintln!(
            "\n{} complaint(s); the whole log is in {}",
            complaints.len(),
            kernel_log.display()
        );
        return Ok(1);
    }
    match (guest.exit_code(), status) {
        (Some(_), None) => {
            eprintln!(
                "the command has ended, and the machine does not; the kernel log is in {}",
                kernel_log.display()
            );
            Ok(1)
        }
        (Some(code), _) => Ok(code),
        (None, None) if guest.started() => {
            eprintln!(
                "the command did not end in time; the kernel log is in {}",
                kernel_log.display()
            );
            Ok(1)
        }
        (None, _) => {
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!(
                "the virtual machine ended without a result; the end of `{}`:\n{tail}",
                kernel_log.display()
            )
        }
    }
}

/// How long a machine may take to shut down, whatever its command has left behind.
const SHUTDOWN: Duration = Duration::from_secs(180);

/// Waits for the machine; none means that its time was up and it was ended.
fn wait(
    qemu: &mut Child,
    timeout: Option<Duration>,
    guest: &Guest,
    start: Instant,
) -> Result<Option<ExitStatus>> {
    let mut told = false;
    let mut ended: Option<Instant> = None;
    loop {
        if let Some(status) = qemu.try_wait().context("failed to wait for QEMU")? {
            return Ok(Some(status));
        }
        if !told && guest.started() {
            told = true;
            eprintln!(
                "xtask: the guest is up ({:.1} s)",
                start.elapsed().as_secs_f64()
            );
        }
        if guest.exit_code().is_some() {
            ended.get_or_insert_with(Instant::now);
        }
        let hangs = ended.is_some_and(|at| at.elapsed() > SHUTDOWN);
        if hangs || timeout.is_some_and(|limit| start.elapsed() > limit) {
            // It may just have ended by itself.
            let _ = qemu.kill();
            qemu.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

pub type Pump = thread::JoinHandle<io::Result<()>>;

/// Copies as it comes, so that the user sees lines when they are printed.
pub fn pump(
    mut from: impl Read + Send + 'static,
    to: io::Result<impl Write + Send + 'static>,
) -> Pump {
    thread::spawn(move || {
        let mut to = to?;
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..count])?;
            to.flush()?;
        }
    })
}

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

/// The QEMU command line, as a line of shell; virtme-ng works it out.
fn qemu_command(kernel: &Kernel, machine: &Machine, guest: &Guest, shell: bool) -> Result<String> {
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
