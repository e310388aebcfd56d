// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs from the Rust registry: ublk servers, which serve ubd's devices unmodified (rublk, and the
//! examples of libublk), and fsx, the file system exerciser.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::progress::step;
use crate::{cache, host, programs};

const RUBLK: &str = "0.2.15";
const LIBUBLK: &str = "0.4.8";
const FSX: &str = "0.3.2";

/// The examples that are run; each becomes `libublk-NAME`.
const EXAMPLES: [&str; 4] = ["null", "loop", "ramdisk", "batch"];

/// The rublk program, built on first use.
pub fn rublk() -> Result<PathBuf> {
    let entry = cache::entry("rublk", RUBLK, |dir| {
        step(
            &format!("building rublk {RUBLK}, the server to compare with"),
            || install("rublk", RUBLK, &["--no-default-features"], dir),
        )
    })?;
    Ok(entry.join("bin/rublk"))
}

/// The fsx program, built on first use.
pub fn fsx() -> Result<PathBuf> {
    let entry = cache::entry("fsx", FSX, |dir| {
        step(
            &format!("building fsx {FSX}, which exercises file systems"),
            || install("fsx", FSX, &[], dir),
        )
    })?;
    Ok(entry.join("bin/fsx"))
}

/// The example programs of libublk, built on first use.
pub fn examples() -> Result<Vec<PathBuf>> {
    let key = cache::key([&[LIBUBLK], EXAMPLES.as_slice()].concat());
    let named = |dir: &Path, name: &str| dir.join(format!("bin/libublk-{name}"));
    let entry = cache::entry("libublk", &key, |dir| {
        step(
            &format!("building the examples of libublk {LIBUBLK}"),
            || {
                let wanted: Vec<_> = EXAMPLES
                    .iter()
                    .flat_map(|name| ["--example", name])
                    .collect();
                install("libublk", LIBUBLK, &wanted, dir)?;
                for name in EXAMPLES {
                    fs::rename(dir.join("bin").join(name), named(dir, name))?;
                }
                Ok(())
            },
        )
    })?;
    Ok(EXAMPLES.iter().map(|name| named(&entry, name)).collect())
}

/// `cargo install`, with everything it makes in `dir`.
fn install(package: &str, version: &str, more: &[&str], dir: &Path) -> Result<()> {
    let mut install = programs::cargo(&["install", package, "--locked", "--quiet"]);
    install.args(more);
    install.args(["--version", version, "--root"]).arg(dir);
    install.env("CARGO_TARGET_DIR", dir.join("target"));
    host::run_logged(&mut install, &cache::dir()?.join(format!("{package}.log")))?;
    // Only the programs are wanted.
    Ok(fs::remove_dir_all(dir.join("target"))?)
}
