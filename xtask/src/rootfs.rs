// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's root file system: a Debian tree with the kernel, built by mmdebstrap.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Result};

use crate::kernel::Series;
use crate::progress::step;
use crate::{cache, host, packages};

/// What the guest has besides the kernel.
const PACKAGES: &[&str] = &[
    "busybox-static", // virtme-ng's initial RAM disk
    "udev",
    "kmod",
    "procps",
    "psmisc",
    "util-linux",
    "iproute2",
    "dmsetup",
    "fio",
    "e2fsprogs",
    "xfsprogs",
    "stress-ng", // loads of file systems and machines, for the tests
    "strace",
    "bpftool",
    "linux-perf",
    "libelf1t64", // our programs link to it
    "zlib1g",
    "gcc", // the module is built in this tree
    "make",
    "dwarves",
    "libc6-dev",
];

/// Directories of the tree that the host's are mounted on (see guest.rs and kmod.rs).
const MOUNT_POINTS: &[&str] = &["repo", "run", "out", "modules", "build", "kernel"];

/// Drivers of what QEMU emulates and nothing here uses; udev would spend seconds loading them.
const UNWANTED_MODULES: &[&str] = &[
    "ahci",
    "aesni_intel",
    "bochs",
    "button",
    "cryptd",
    "drm",
    "edac_core",
    "evdev",
    "ghash_clmulni_intel",
    "i2c_i801",
    "i6300esb",
    "intel_rapl_msr",
    "iTCO_wdt",
    "joydev",
    "kvm",
    "kvm_amd",
    "kvm_intel",
    "lpc_ich",
    "pcspkr",
    "psmouse",
    "qemu_fw_cfg",
    "rapl",
    "serio_raw",
    "sg",
    "sha1_ssse3",
    "sha256_ssse3",
    "sha512_ssse3",
    "sr_mod",
    "virtio_net",
];

/// The tree for `series`, built if it is not in the cache: 0.9 GB, one to three minutes.
pub fn ensure(series: &Series) -> Result<PathBuf> {
    let names: Vec<_> = series.packages.iter().chain(PACKAGES).copied().collect();
    let key = cache::key(
        [
            &[series.suite],
            names.as_slice(),
            MOUNT_POINTS,
            UNWANTED_MODULES,
        ]
        .concat(),
    );
    let entry = cache::entry(&format!("rootfs-{}", series.name), &key, |dir| {
        if !host::is_root() {
            bail!("building the guest's root file system needs root; run `cargo xtask setup` as root once");
        }
        let what = format!(
            "building a Debian {} tree with Linux {}",
            series.suite, series.name
        );
        step(&what, || build(dir, series, &names))
    })?;
    Ok(entry.join("root"))
}

/// Lines for `sources.list`.
fn sources(series: &Series, mirror: &str) -> Vec<String> {
    std::iter::once(series.suite)
        .chain(series.pocket)
        .map(|suite| format!("deb {mirror} {suite} main"))
        .collect()
}

fn build(dir: &Path, series: &Series, names: &[&str]) -> Result<()> {
    let root = dir.join("root");
    let mkdirs = MOUNT_POINTS
        .iter()
        .map(|name| format!(" \"$1/ubd/{name}\""))
        .collect::<String>();
    let blacklist = UNWANTED_MODULES
        .iter()
        .map(|name| format!(" \"blacklist {name}\""))
        .collect::<String>();
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=apt", "--format=directory"])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg("--aptopt=Acquire::Languages \"none\"")
        .args(
            packages::proxies()
                .iter()
                .map(|line| format!("--aptopt={line}")),
        )
        .arg(format!("--customize-hook=mkdir -p{mkdirs}"))
        .arg(format!(
            "--customize-hook=printf '%s\\n'{blacklist} >\"$1/etc/modprobe.d/ubd.conf\""
        ))
        .arg(format!("--include={}", names.join(",")))
        .arg(series.suite)
        .arg(&root)
        .args(sources(series, &packages::mirror()?));
    host::run_logged(&mut command, &cache::dir()?.join("rootfs.log"))
}
