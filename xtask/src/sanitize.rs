// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel that watches itself (KASAN, lockdep, kmemleak, fault injection), built from Debian's
//! source package and kept in the cache. Its configuration is `debug-kernel.config`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::progress::step;
use crate::{cache, host};

const CONFIG: &str = include_str!("../debug-kernel.config");
const SCRIPT: &str = include_str!("../guest/debug-kernel.sh");

/// $1: the tree, $2: the source package. The mount ends with this shell.
const BUILD: &str = r#"
set -e
mount -t proc proc "$1/proc"
cp -L /etc/resolv.conf "$1/etc/resolv.conf"
exec nice -n 10 chroot "$1" sh /build/debug-kernel.sh "$2"
"#;

/// A directory as `--kernel-dir` takes it, built if it is not in the cache: 20 to 60 minutes, and
/// 8 GB of disk meanwhile. `version` is the packaged kernel's, whose source it is, `package` the
/// source package, `rootfs` the tree that has its compiler.
pub fn ensure(version: &str, package: &str, rootfs: &Path) -> Result<PathBuf> {
    let key = cache::key([version, package, CONFIG, SCRIPT]);
    cache::entry("debug-kernel", &key, |dir| {
        if !host::is_root() {
            bail!("building the debug kernel needs root (chroot); run `cargo xtask setup --sanitize` as root once");
        }
        let what = format!("building a debug kernel from {package} (up to an hour)");
        step(&what, || build(dir, package, rootfs))
    })
}

fn build(dir: &Path, package: &str, rootfs: &Path) -> Result<()> {
    let tree = dir.join("tree");
    let work = tree.join("build");
    host::output(
        Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .args([rootfs, &tree]),
    )?;
    fs::create_dir(&work).with_context(|| format!("failed to create `{}`", work.display()))?;
    fs::write(work.join("debug-kernel.config"), CONFIG)?;
    fs::write(work.join("debug-kernel.sh"), SCRIPT)?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .args([BUILD, "sh"])
        .arg(&tree)
        .arg(package);
    host::run_logged(&mut command, &cache::dir()?.join("debug-kernel.log"))?;
    install(dir, &work)?;
    fs::remove_dir_all(&tree).with_context(|| format!("failed to remove `{}`", tree.display()))
}

/// Of all that was built, what is booted and what modules are built with.
fn install(dir: &Path, work: &Path) -> Result<()> {
    let version = fs::read_to_string(work.join("kver"))?;
    let modules = work.join("out/lib/modules").join(version.trim());
    for link in ["build", "source"] {
        let link = modules.join(link);
        if link.is_symlink() {
            fs::remove_file(&link)
                .with_context(|| format!("failed to remove `{}`", link.display()))?;
        }
    }
    for (from, to) in [("out/lib", "lib"), ("ext", "build"), ("vmlinuz", "vmlinuz")] {
        fs::rename(work.join(from), dir.join(to))
            .with_context(|| format!("failed to move `{from}` out of the build"))?;
    }
    Ok(())
}
