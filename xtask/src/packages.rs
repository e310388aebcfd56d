// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian packages on the host, and what its apt knows about mirrors.

use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cache;
use crate::host::{self, output};
use crate::progress::step;

/// Everything but clang, whose name depends on the release.
const PACKAGES: &[&str] = &[
    "mmdebstrap",             // builds the guest's root file system
    "debian-archive-keyring", // its packages' signatures
    "qemu-system-x86",        // runs the guest
    "python3",                // virtme-ng, which starts it,
    "python3-venv",           // in an environment of its own
    "kmod",                   // modprobe and strings or file, which virtme-ng uses
    "file",
    "e2fsprogs",  // mke2fs, for the image of the demo
    "binutils",   // readelf, to check the module
    "util-linux", // unshare and setpriv
    "patch",      // makes the mutants
    "gcc",        // libbpf, which libbpf-rs compiles,
    "libc6-dev",
    "make",
    "pkg-config",
    "libelf-dev", // and what it links to
    "zlib1g-dev",
];

/// The oldest clang whose BPF objects are good enough.
const CLANG_MIN: u32 = 15;

/// The newest numbered one that build.rs looks for.
const CLANG_MAX: u32 = 30;

/// Installs what is missing. Not being root, prints the command that does.
pub fn ensure() -> Result<()> {
    let mut missing = missing(PACKAGES);
    if !has_clang() {
        missing.push(clang_package()?);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !host::is_root() {
        bail!("Debian packages are missing; install them with\n\n    sudo sh -c 'apt-get update && {install}'\n");
    }
    let log = cache::dir()?.join("apt.log");
    step(&format!("installing {}", missing.join(" ")), || {
        let script = format!("apt-get update && {install}");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .env("DEBIAN_FRONTEND", "noninteractive");
        host::run_logged(&mut command, &log)
    })
}

fn missing(names: &[&str]) -> Vec<String> {
    let out = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(names)
        .output();
    // dpkg-query fails when one name is unknown to it; what it prints still holds.
    let text = out
        .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
        .unwrap_or_default();
    let installed: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    names
        .iter()
        .filter(|name| !installed.contains(name))
        .map(|name| name.to_string())
        .collect()
}

/// True if build.rs will find a compiler for BPF programs: `$CLANG`, `clang` or a `clang-N`.
fn has_clang() -> bool {
    std::env::var_os("CLANG").is_some()
        || clang_version("clang").is_some_and(|version| version >= CLANG_MIN)
        || (CLANG_MIN..=CLANG_MAX).any(|n| host::find_program(&[&format!("clang-{n}")]).is_some())
}

fn clang_version(name: &str) -> Option<u32> {
    let text = output(Command::new(name).arg("--version")).ok()?;
    let (_, rest) = text.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

/// The package that brings a good clang here: plain `clang`, or the newest numbered one.
fn clang_package() -> Result<String> {
    let policy = output(Command::new("apt-cache").args(["policy", "clang"]))?;
    let lists_missing = !policy.contains("Candidate:");
    if lists_missing && host::is_root() {
        step("apt-get update", || {
            output(Command::new("apt-get").arg("update")).map(drop)
        })?;
    }
    let names =
        output(Command::new("apt-cache").args(["search", "--names-only", "^clang-[0-9]+$"]))?;
    let newest = names
        .lines()
        .filter_map(|line| {
            line.split_whitespace()
                .next()?
                .strip_prefix("clang-")?
                .parse::<u32>()
                .ok()
        })
        .max()
        .filter(|version| (CLANG_MIN..=CLANG_MAX).contains(version));
    match newest {
        Some(version) => Ok(format!("clang-{version}")),
        None => bail!("failed to find a package with clang {CLANG_MIN} or newer; install one, or set CLANG to its path"),
    }
}

/// The mirror of Debian that the host itself uses.
pub fn mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(COMPONENT)|$(CREATED_BY)|$(CODENAME)|$(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format]))
        .context("failed to ask apt for its mirrors; is this a Debian machine?")?;
    targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian|main|Packages|")?.split_once('|'))
        // `trixie-updates` and `trixie-security` are other archives or parts of one.
        .find(|(codename, _)| !codename.contains('-'))
        .map(|(_, uri)| uri.to_owned())
        .context("failed to find a Debian mirror in apt's configuration; run `apt-get update`, and on another distribution use a Debian container or machine")
}

/// The host's proxy settings, in apt's own syntax.
pub fn proxies() -> Vec<String> {
    let dump = output(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
    let keys = ["Acquire::http::Proxy ", "Acquire::https::Proxy "];
    dump.lines()
        .filter(|line| keys.iter().any(|key| line.starts_with(key)))
        .map(str::to_owned)
        .collect()
}
