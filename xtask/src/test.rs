// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`: every test. First those that run on the host, then, in one boot of the
//! machine, those that need the driver.

use std::ffi::OsString;

use anyhow::{bail, Context, Result};
use clap::Args;

use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{host::BuildFailed, peer, power_loss, programs, vm};

/// The test target whose program runs in the guest.
const VM_TEST: &str = "vm";

/// Where it is there.
pub const PROGRAM: &str = "/ubd/run/vm-test";

/// `cargo xtask test`
#[derive(Args)]
pub struct TestArgs {
    /// Only the tests that run on the host
    #[arg(long, conflicts_with = "vm_only")]
    host_only: bool,

    /// Only the tests that run in the virtual machine
    #[arg(long)]
    vm_only: bool,

    #[command(flatten)]
    machine: vm::Machine,

    /// Only tests with one of these in their name
    filter: Vec<OsString>,
}

/// Runs the tests, those of the machine on one kernel after the other; 1 if one failed. Each of
/// `setups` readies a kernel.
pub fn command(setups: &[impl Fn() -> Result<Kernel>], args: TestArgs) -> Result<u8> {
    // First: the host's tests compile BPF too, with the packages that this brings.
    let kernels = setups
        .iter()
        .map(|setup| setup())
        .collect::<Result<Vec<_>>>()?;
    if !args.vm_only && !host_tests(&args.filter)? {
        return Ok(1);
    }
    if args.host_only {
        return Ok(0);
    }
    let mut worst = 0;
    for kernel in &kernels {
        if kernels.len() > 1 {
            eprintln!("xtask: Linux {}", kernel.version);
        }
        worst = worst.max(vm_tests(kernel, &args)?);
    }
    Ok(worst)
}

/// Everything but the target that needs the machine.
fn host_tests(filter: &[OsString]) -> Result<bool> {
    let mut cargo = programs::cargo(&["test", "--workspace"]);
    let status = cargo.args(filter).status().context("failed to run cargo")?;
    Ok(status.success())
}

fn vm_tests(kernel: &Kernel, args: &TestArgs) -> Result<u8> {
    let mut code = 0;
    if !power_loss::is_all(&args.filter) {
        let command: Vec<_> = std::iter::once(PROGRAM.into())
            .chain(args.filter.iter().cloned())
            .collect();
        code = vm::run(kernel, &args.machine, &guest(kernel)?, &command)?.min(1);
    }
    if power_loss::is_wanted(&args.filter) {
        code = code.max(power_loss::test(kernel, &args.machine, guest(kernel)?)?);
    }
    Ok(code)
}

/// A machine with the tests that need the driver, and all that they use.
pub fn guest(kernel: &Kernel) -> Result<Guest> {
    let built = programs::executables(
        "test",
        &[
            "test",
            "--no-run",
            "--package",
            "ubd-bpf",
            "--test",
            VM_TEST,
        ],
    )?;
    let [test] = built.as_slice() else {
        bail!(BuildFailed(format!(
            "expected one program of the test target `{VM_TEST}`, found {}",
            built.len()
        )));
    };
    let mut guest = vm::with_ubd(Guest::new()?, kernel)?;
    // Some tests go on for hours when they may, and some repeat what they did before.
    for name in ["UBD_LONG", "UBD_SEED"] {
        if let Ok(value) = std::env::var(name) {
            guest = guest.with_env(name, &value);
        }
    }
    guest.copy(test, "vm-test")?;
    guest.program(&programs::example("relocate")?)?;
    guest.program(&peer::rublk()?)?;
    guest.program(&peer::fsx()?)?;
    for example in peer::examples()? {
        guest.program(&example)?;
    }
    Ok(guest)
}
