// SPDX-License-Identifier: MIT OR Apache-2.0
//! virtme-ng, which turns a kernel and a directory into a QEMU command line.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::progress::step;
use crate::{cache, host};

const VERSION: &str = "1.42";

/// The Python interpreter of an environment that has virtme-ng.
pub fn ensure() -> Result<PathBuf> {
    let entry = cache::entry("virtme-ng", VERSION, |dir| {
        step(&format!("installing virtme-ng {VERSION}"), || {
            let log = cache::dir()?.join("virtme-ng.log");
            // Debian's own Python, whatever else is first on PATH.
            let mut venv = Command::new("/usr/bin/python3");
            host::run_logged(venv.args(["-m", "venv"]).arg(dir), &log)?;
            let mut pip = Command::new(dir.join("bin/python3"));
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
            host::run_logged(pip.arg(format!("virtme-ng=={VERSION}")), &log)
        })
    })?;
    Ok(entry.join("bin/python3"))
}
