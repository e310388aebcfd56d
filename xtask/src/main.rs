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
mod mutants;
mod packages;
mod peer;
mod power_loss;
mod programs;
mod progress;
mod qemu;
mod rootfs;
mod sanitize;
mod soak;
mod test;
mod virtme;
mod vm;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use kernel::{Build, Choice, Kernel};

/// EX_UNAVAILABLE: the machinery failed, nothing is said about the code under test.
const EXIT_INFRASTRUCTURE: u8 = 69;

/// As clap's.
const EXIT_USAGE: u8 = 2;

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Cli {
    /// Kernel series to build for and to boot: 6.12 or 7.3; `all` for setup, kmod and test
    #[arg(long, global = true, value_name = "SERIES", default_value = "6.12", value_parser = Choice::parse)]
    kernel: Choice,

    /// Self-built kernel instead: DIR/vmlinuz, DIR/lib/modules/VERSION and DIR/build (its build tree)
    #[arg(long, global = true, value_name = "DIR")]
    kernel_dir: Option<PathBuf>,

    /// A kernel with KASAN, lockdep, kmemleak and fault injection instead; built once, in up to an hour
    #[arg(long, global = true, conflicts_with = "kernel_dir")]
    sanitize: bool,

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
    /// Take one guard of the driver away at a time and show which test notices
    Mutants(mutants::MutantsArgs),
    /// Run every test, on the host and in a virtual machine
    Test(test::TestArgs),
    /// Let everything happen at once, for as long as you like
    Soak(soak::SoakArgs),
}

fn run(cli: Cli) -> Result<u8> {
    let build = match &cli.kernel_dir {
        Some(dir) => Build::In(dir),
        None if cli.sanitize => Build::Debug,
        None => Build::Packaged,
    };
    let all: Vec<_> = cli
        .kernel
        .series()
        .iter()
        .map(|series| move || Kernel::prepare(series, build))
        .collect();
    let series = || {
        let series = cli.kernel.single();
        series.ok_or(Usage("this command takes one kernel, not `--kernel all`"))
    };
    let one = || Kernel::prepare(series()?, build);
    match cli.command {
        Command::Setup => {
            virtme::ensure()?;
            for setup in all {
                let kernel = setup()?;
                eprintln!(
                    "ready: kernel {} in {}",
                    kernel.version,
                    kernel.rootfs.display()
                );
            }
            Ok(0)
        }
        Command::Kmod => {
            for setup in all {
                println!("{}", kmod::build(&setup()?)?.display());
            }
            Ok(0)
        }
        Command::Vm(args) => vm::command(&one()?, args),
        Command::Demo(args) => demo::command(&one()?, args),
        Command::Bench(args) => bench::command(&one()?, args),
        Command::Mutants(args) => mutants::command(series()?, build, &args),
        Command::Test(args) => test::command(&all, args),
        Command::Soak(args) => soak::command(&one()?, &args),
    }
}

/// A command line that asks for what there is not: exit 2.
#[derive(Debug)]
struct Usage(&'static str);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            let code = if error.is::<host::BuildFailed>() {
                1
            } else if error.is::<Usage>() {
                EXIT_USAGE
            } else {
                EXIT_INFRASTRUCTURE
            };
            ExitCode::from(code)
        }
    }
}
