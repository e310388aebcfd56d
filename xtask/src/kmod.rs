// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the kernel module inside the guest's tree, whose compiler and pahole fit its kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use crate::cache;
use crate::host::{self, BuildFailed};
use crate::kernel::Kernel;
use crate::progress::step;

/// $1: the tree, $2: the sources, $3: a kernel's build tree or nothing, $4: KDIR in the tree.
/// The mounts live in a namespace of their own and end with this shell.
const BUILD: &str = r#"
set -e
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/ubd/build"
[ -z "$3" ] || mount --bind "$3" "$1/ubd/kernel"
exec chroot "$1" make -C /ubd/build/kmod KDIR="$4"
"#;

/// The module for `kernel`; built only when a source changed. The source tree stays as it is.
pub fn build(kernel: &Kernel) -> Result<PathBuf> {
    let out = host::target().join("kmod").join(&kernel.version);
    build_of(kernel, &sources()?, &out)
}

/// The module of other `sources`, as sources() gives them, in `out`.
pub fn build_of(kernel: &Kernel, sources: &[Source], out: &Path) -> Result<PathBuf> {
    let module = out.join("ubd_drv.ko");
    let stamp = out.join("ubd_drv.ko.key");
    fs::create_dir_all(out).with_context(|| format!("failed to create `{}`", out.display()))?;
    let _lock = cache::lock(&out.join("lock"))?;

    let key = key(kernel, sources);
    if module.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(module);
    }
    if !host::is_root() {
        bail!("building the module in the guest's tree needs root (chroot); run this as root, or build it with `make -C kmod` against your own kernel");
    }
    let work = out.join("build");
    lay_out(&work, sources)?;
    step(
        &format!("building the module for {}", kernel.version),
        || {
            let (tree, kdir) = match &kernel.custom {
                Some(custom) => (custom.build.clone(), "/ubd/kernel".to_owned()),
                None => (
                    PathBuf::new(),
                    format!("/lib/modules/{}/build", kernel.version),
                ),
            };
            let mut command = Command::new("unshare");
            command
                .args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    BUILD,
                    "sh",
                ])
                .args([&kernel.rootfs, &work, &tree])
                .arg(kdir);
            host::run_logged(&mut command, &out.join("build.log"))
                .map_err(|error| BuildFailed(format!("failed to build the module: {error:#}")))?;
            Ok(())
        },
    )?;
    let built = work.join("kmod/ubd_drv.ko");
    check_btf(&built)?;
    fs::copy(&built, &module).with_context(|| format!("failed to copy `{}`", built.display()))?;
    fs::write(&stamp, key)?;
    Ok(module)
}

/// Equal keys, equal modules.
pub fn key(kernel: &Kernel, sources: &[Source]) -> String {
    let mut parts = vec![
        kernel.version.clone().into_bytes(),
        kernel.rootfs.as_os_str().as_encoded_bytes().to_vec(),
    ];
    for (name, data) in sources {
        parts.push(name.as_os_str().as_encoded_bytes().to_vec());
        parts.push(data.clone());
    }
    cache::key(&parts)
}

/// A file by its path in the repository.
pub type Source = (PathBuf, Vec<u8>);

/// All that the module is made of: kmod/ and the headers of bpf/.
pub fn sources() -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for dir in ["kmod", "bpf"] {
        let path = host::repo().join(dir);
        let list =
            fs::read_dir(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
        for entry in list {
            let entry = entry?;
            let name = Path::new(dir).join(entry.file_name());
            let ext = name.extension().and_then(|ext| ext.to_str());
            let wanted = match dir {
                "kmod" => matches!(ext, Some("c" | "h") | None),
                _ => ext == Some("h"),
            };
            if wanted && entry.file_type()?.is_file() {
                files.push((name, fs::read(entry.path())?));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Makes `work` a copy of the sources. Unchanged files keep their times, so that make rebuilds
/// only what it must; what is no longer a source goes.
fn lay_out(work: &Path, sources: &[Source]) -> Result<()> {
    for (name, data) in sources {
        let path = work.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        if !fs::read(&path).is_ok_and(|old| old == *data) {
            fs::write(&path, data)
                .with_context(|| format!("failed to write `{}`", path.display()))?;
        }
    }
    for entry in fs::read_dir(work.join("kmod"))? {
        let path = entry?.path();
        let name = path.strip_prefix(work).unwrap_or(&path).to_path_buf();
        let source = path.extension().is_some_and(|ext| ext == "c" || ext == "h");
        // Generated C (`*.mod.c`) is kbuild's own.
        let generated = name.to_string_lossy().ends_with(".mod.c");
        if source && !generated && !sources.iter().any(|(known, _)| *known == name) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// struct_ops needs the module's types: a module without them is refused when it is loaded.
fn check_btf(module: &Path) -> Result<()> {
    let sections = host::output(Command::new("readelf").args(["-SW"]).arg(module))?;
    if !sections.contains(" .BTF ") {
        bail!("`{}` has no BTF; the kernel's headers must come with a `vmlinux` that has BTF, and `pahole` (package dwarves) must be installed", module.display());
    }
    Ok(())
}
