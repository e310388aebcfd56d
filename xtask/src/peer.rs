// SPDX-License-Identifier: MIT OR Apache-2.0
//! rublk, the ublk server from the Rust registry, which serves ubd's devices unmodified.

use std::path::PathBuf;

use anyhow::Result;

use crate::progress::step;
use crate::{cache, host, programs};

const VERSION: &str = "0.2.15";

/// The rublk program, built on first use.
pub fn rublk() -> Result<PathBuf> {
    let entry = cache::entry("rublk", VERSION, |dir| {
        step(
            &format!("building rublk {VERSION}, the server to compare with"),
            || {
                let mut install = programs::cargo(&[
                    "install",
                    "rublk",
                    "--locked",
                    "--quiet",
                    "--no-default-features",
                ]);
                install.args(["--version", VERSION, "--root"]).arg(dir);
                install.env("CARGO_TARGET_DIR", dir.join("target"));
                host::run_logged(&mut install, &cache::dir()?.join("rublk.log"))?;
                // Only the program is wanted.
                Ok(std::fs::remove_dir_all(dir.join("target"))?)
            },
        )
    })?;
    Ok(entry.join("bin/rublk"))
}
