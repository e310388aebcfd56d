// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots the virtual machine and brings back output, exit code and kernel log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use clap::Args;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{host, kmod, log_scan, programs, qemu};

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

/// QEMU before 8.1 may run an instruction that the kernel has long replaced, the breakpoint that
/// stands there while it patches itself, which it then takes for a fault of its own. A thing of the
/// emulator, seldom, and nothing of ours runs that early: such a machine is started again.
const STALE_BREAKPOINT: &str = "int3: 0000";
const BOOTS: usize = 3;

/// Boots and runs `command` to its end, whatever that is; what it prints goes to `to`. None: the
/// machine had to be ended.
pub fn boot(
    kernel: &Kernel,
    machine: &Machine,
    guest: &Guest,
    command: &[OsString],
    mut to: impl Write + Send + 'static,
) -> Result<Option<ExitStatus>> {
    let mut status = None;
    for left in (0..BOOTS).rev() {
        (status, to) = boot_once(kernel, machine, guest, command, to)?;
        if left == 0 || !may_boot_again(guest)? {
            break;
        }
    }
    for number in 0..machine.disks.len() {
        fs::remove_file(qemu::disk_path(guest, number))
            .context("failed to remove a scratch disk")?;
    }
    Ok(status)
}

/// Whether a stale breakpoint ended the machine before anything of ours ran in it; it is told, and
/// forgotten.
pub fn may_boot_again(guest: &Guest) -> Result<bool> {
    let log = fs::read(kernel_log(guest)).context("failed to read the kernel's log")?;
    if guest.started() || !String::from_utf8_lossy(&log).contains(STALE_BREAKPOINT) {
        return Ok(false);
    }
    eprintln!("xtask: QEMU ran a stale breakpoint while the guest booted; it starts again");
    guest.forget()?;
    Ok(true)
}

fn boot_once<W: Write + Send + 'static>(
    kernel: &Kernel,
    machine: &Machine,
    guest: &Guest,
    command: &[OsString],
    to: W,
) -> Result<(Option<ExitStatus>, W)> {
    let start = Instant::now();
    let mut qemu = start_machine(kernel, machine, guest, command)?;
    let log = pump(qemu.stderr.take(), File::create(kernel_log(guest)));
    let output = pump(qemu.stdout.take(), Ok(to));
    let limit = machine.timeout.map(Duration::from_secs);
    let status = wait(&mut qemu, limit, guest, start)?;
    joined(log)?;
    Ok((status, joined(output)?))
}

fn joined<W>(thread: Pump<W>) -> Result<W> {
    match thread.join() {
        Ok(to) => to.context("failed to pass on the guest's output"),
        Err(_) => bail!("failed to pass on the guest's output"),
    }
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
    let script = qemu::command(kernel, machine, guest, command.is_empty())?;
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

pub type Pump<W> = thread::JoinHandle<io::Result<W>>;

/// Copies as it comes, so that the user sees lines when they are printed; gives `to` back. What is
/// not piped is the user's own already.
pub fn pump<W: Write + Send + 'static>(
    from: Option<impl Read + Send + 'static>,
    to: io::Result<W>,
) -> Pump<W> {
    thread::spawn(move || {
        let mut to = to?;
        let Some(mut from) = from else {
            return Ok(to);
        };
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                return Ok(to);
            }
            to.write_all(&buffer[..count])?;
            to.flush()?;
        }
    })
}
