// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel to build for and to boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::{packages, rootfs};

/// A kernel series that Debian ships, with the release whose packages bring it.
#[derive(Debug)]
pub struct Series {
    pub name: &'static str,
    pub suite: &'static str,
    pub packages: &'static [&'static str],
}

static SERIES: &[Series] = &[Series {
    name: "6.12",
    suite: "trixie",
    packages: &["linux-image-amd64", "linux-headers-amd64"],
}];

/// Parses `--kernel`.
pub fn parse_series(name: &str) -> Result<&'static Series, String> {
    SERIES
        .iter()
        .find(|series| series.name == name)
        .ok_or_else(|| {
            let known: Vec<_> = SERIES.iter().map(|series| series.name).collect();
            format!("only these kernels are supported: {}", known.join(", "))
        })
}

/// A kernel that is ready to boot, and the root file system it boots with.
pub struct Kernel {
    /// As in `uname -r`.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The Debian tree that the guest runs on and modules are built in.
    pub rootfs: PathBuf,
    /// A self-built kernel: where its modules and its build tree are.
    pub custom: Option<Custom>,
}

/// What a self-built kernel brings along; a packaged one has all this in the root file system.
pub struct Custom {
    /// `…/lib/modules/VERSION`
    pub modules: PathBuf,
    /// The tree it was built in.
    pub build: PathBuf,
}

impl Kernel {
    /// Installs and builds what is missing, and finds the exact version.
    pub fn prepare(series: &Series, dir: Option<&Path>) -> Result<Kernel> {
        packages::ensure()?;
        let rootfs = rootfs::ensure(series)?;
        if let Some(dir) = dir {
            return Kernel::custom(rootfs, dir);
        }
        let version = only_entry(&rootfs.join("usr/lib/modules"))?;
        let image = rootfs.join(format!("boot/vmlinuz-{version}"));
        if !version.starts_with(series.name) || !image.exists() {
            bail!(
                "failed to find kernel {} in `{}`: found {version}",
                series.name,
                rootfs.display()
            );
        }
        Ok(Kernel {
            version,
            image,
            rootfs,
            custom: None,
        })
    }

    fn custom(rootfs: PathBuf, dir: &Path) -> Result<Kernel> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("failed to find the kernel directory `{}`", dir.display()))?;
        let version = only_entry(&dir.join("lib/modules"))?;
        let custom = Custom {
            modules: dir.join("lib/modules").join(&version),
            build: dir.join("build"),
        };
        Ok(Kernel {
            version,
            image: dir.join("vmlinuz"),
            rootfs,
            custom: Some(custom),
        })
    }
}

/// The name of the one entry of a directory.
fn only_entry(dir: &Path) -> Result<String> {
    let names = fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<Result<Vec<_>, _>>()
        })
        .with_context(|| format!("failed to read `{}`", dir.display()))?;
    match names.as_slice() {
        [name] => Ok(name.to_string_lossy().into_owned()),
        _ => bail!(
            "expected one kernel version in `{}`, found {}",
            dir.display(),
            names.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_series_is_refused_with_the_known_ones() {
        assert_eq!(parse_series("6.12").unwrap().suite, "trixie");
        assert!(parse_series("5.4").unwrap_err().contains("6.12"));
    }
}
