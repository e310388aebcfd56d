// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ubd does, shown on real data. `cargo xtask demo` runs this as root in a virtual machine;
//! it is not meant for a machine that you care about.
//!
//! * `demo story DISK SCRATCH MANIFEST ROWS`: DISK holds an ext4 image of a file tree, SCRATCH is
//!   empty, MANIFEST has the SHA-256 sums of the tree's source. Measured rows go to the file ROWS.
//! * `demo cost ROWS`: on a machine that counts instructions; ends with a table of all rows.
//!
//! Everything that it says, it has checked: it exits with 1 as soon as something is not so.
//! Environment: `UBD_KO` is the module, `UBD_BPF_DIR` has the compiled programs in its parent.

mod cost;
mod device;
mod fio;
mod frozen;
mod image;
mod numbers;
// The bench runs its commands in the same way.
#[path = "../bench/shell.rs"]
mod shell;
mod tell;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{bail, ensure, Context, Result};
use numbers::Row;

fn story(disk: &str, scratch: &str, manifest: &Path, rows: &Path) -> Result<()> {
    load_driver()?;
    let tree = image::Tree::of(manifest)?;

    tell::heading("1. A file system whose data path never leaves the kernel");
    tell::note(&format!(
        "The image: ext4 with this machine's documentation and toolchain, {} files. Behind ubd it \
         is mounted, read through, compared with the source by SHA-256, written to, and checked.",
        tell::number(tree.files)
    ));
    let file = image::as_file(disk, scratch)?;
    let mut measured = Vec::new();
    for (name, backing) in [("in a file", file.as_str()), ("on a disk", disk)] {
        for fast in [true, false] {
            measured.push(image::exercise(name, backing, fast, &tree)?);
        }
    }
    image::forget_file()?;

    tell::heading("2. The daemon is frozen, mapped I/O goes on");
    frozen::show(disk)?;

    let json = serde_json::to_string(&measured)?;
    std::fs::write(rows, json).with_context(|| format!("failed to write `{}`", rows.display()))?;
    Ok(())
}

fn cost(rows: &Path) -> Result<()> {
    load_driver()?;
    let text = std::fs::read_to_string(rows)
        .with_context(|| format!("failed to read `{}`", rows.display()))?;
    let mut measured: Vec<Row> = serde_json::from_str(&text)?;

    tell::heading("3. What one I/O costs");
    measured.extend(cost::measure()?);
    tell::heading("What was measured");
    numbers::print_table(&measured);
    Ok(())
}

fn load_driver() -> Result<()> {
    shell::sh("insmod \"$UBD_KO\"; udevadm settle --timeout=60")?;
    ensure!(
        Path::new("/dev/ubd-control").exists(),
        "failed to find `/dev/ubd-control` after loading the driver"
    );
    Ok(())
}

fn run(args: &[&str]) -> Result<()> {
    match args {
        ["story", disk, scratch, manifest, rows] => {
            story(disk, scratch, Path::new(manifest), Path::new(rows))
        }
        ["cost", rows] => cost(Path::new(rows)),
        _ => bail!("run `cargo xtask demo`; it starts this program in a virtual machine"),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
