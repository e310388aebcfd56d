// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: builds, runs and tests ubd on a stock Debian kernel in a virtual machine.
//!
//! Exit codes: 0 good, 1 a test failed or the kernel complained, 2 wrong usage, 69 the machinery
//! (packages, root file system, virtual machine) did not work. `vm -- CMD` ends with CMD's code.

mod bench;
mod cache;
mod demo;
mod guest;
mod host;
mod kernel;
mod kmod;
mod kvm;
mod log_scan;
mod packages;
mod peer;
mod programs;
mod progress;
mod rootfs;
mod test;
mod virtme;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// EX_UNAVAILABLE: the machinery failed, nothing is said about the code under test.
const EXIT_INFRASTRUCTURE: u8 = 69;

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Cli {
    /// Kernel series to build for and to boot
    #[arg(long, global = true, default_value = "6.12", value_parser = kernel::parse_series)]
    kernel: &'static kernel::Series,

    /// Self-built kernel instead: DIR/vmlinuz, DIR/lib/modules/VERSION and DIR/build (its build tree)
    #[arg(long, global = true, value_name = "DIR")]
    kernel_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install and build everything that the other commands need
    Setup,
    /// Build the kernel module
    Kmod,
    /// Run a command, or a shell, in a virtual machine that has the module and the programs
    Vm(vm::VmArgs),
    /// Show what ubd does, on real data
    Demo(demo::DemoArgs),
    /// Count what an I/O costs, beside device-mapper, the kernel's loop device and ublk
    Bench(bench::BenchArgs),
    /// Run every test, on the host and in a virtual machine
    Test(test::TestArgs),
}

fn run(cli: Cli) -> Result<u8> {
    let setup = || kernel::Kernel::prepare(cli.kernel, cli.kernel_dir.as_deref());
    match cli.command {
        Command::Setup => {
            let kernel = setup()?;
            virtme::ensure()?;
            eprintln!(
                "ready: kernel {} in {}",
                kernel.version,
                kernel.rootfs.display()
            );
            Ok(0)
        }
        Command::Kmod => {
            let module = kmod::build(&setup()?)?;
            println!("{}", module.display());
            Ok(0)
        }
        Command::Vm(args) => vm::command(&setup()?, args),
        Command::Demo(args) => demo::command(&setup()?, args),
        Command::Bench(args) => bench::command(&setup()?, args),
        Command::Test(args) => test::command(setup, args),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            let code = if error.is::<host::BuildFailed>() {
                1
            } else {
                EXIT_INFRASTRUCTURE
            };
            ExitCode::from(code)
        }
    }
}
