// SPDX-License-Identifier: MIT OR Apache-2.0
//! Our own programs, built by cargo on the host.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};
use serde_json::Value;

use crate::host::{self, BuildFailed};

/// `cargo`, to be run at the top of the repository.
pub fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(args)
        .current_dir(host::repo())
        .stdin(Stdio::null());
    command
}

/// Builds what `args` name and returns the executables of `kind` ("bin", "test") that came out.
pub fn executables(kind: &str, args: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = cargo(args);
    command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let out = command.output().context("failed to run cargo")?;
    if !out.status.success() {
        return Err(BuildFailed(format!("`cargo {}` failed", args.join(" "))).into());
    }
    let text = String::from_utf8_lossy(&out.stdout);
    // A test's own programs are built and reported with it.
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == kind)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect())
}

/// Builds and returns the programs that ship: `ubd` and `ubd-bpf`.
pub fn shipped() -> Result<Vec<PathBuf>> {
    executables(
        "bin",
        &["build", "--release", "--package", "ubd-bpf", "--bins"],
    )
}

/// Builds an example, a program for the guest.
pub fn example(name: &str) -> Result<PathBuf> {
    let args = ["build", "--release", "--package", "ubd-bpf", "--example"];
    let built = executables("example", &[args.as_slice(), &[name]].concat())?;
    match <[PathBuf; 1]>::try_from(built) {
        Ok([program]) => Ok(program),
        Err(built) => bail!(BuildFailed(format!(
            "expected one program `{name}`, found {}",
            built.len()
        ))),
    }
}
