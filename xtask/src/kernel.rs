// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernel to build for and to boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::{packages, rootfs, sanitize};

/// A kernel series that Debian ships, with the release whose packages bring it.
#[derive(Debug)]
pub struct Series {
    pub name: &'static str,
    /// The guest's release.
    pub suite: &'static str,
    /// Where its kernel comes from, if not from the release itself.
    pub pocket: Option<&'static str>,
    pub packages: &'static [&'static str],
    /// The package with its source, which the debug kernel is built of.
    source: &'static str,
}

static SERIES: &[Series] = &[
    Series {
        name: "6.12",
        suite: "trixie",
        pocket: None,
        packages: &["linux-image-amd64", "linux-headers-amd64"],
        source: "linux-source-6.12",
    },
    Series {
        name: "7.3",
        suite: "trixie",
        pocket: Some("trixie-backports"),
        packages: &[
            "linux-image-amd64/trixie-backports",
            "linux-headers-amd64/trixie-backports",
        ],
        source: "linux-source-7.3",
    },
];

/// What `--kernel` names: one series or all of them, never none.
#[derive(Clone, Copy, Debug)]
pub struct Choice(&'static [Series]);

impl Choice {
    /// Parses `--kernel`.
    pub fn parse(name: &str) -> Result<Choice, String> {
        if name == "all" {
            return Ok(Choice(SERIES));
        }
        SERIES
            .iter()
            .position(|series| series.name == name)
            .map(|at| Choice(&SERIES[at..=at]))
            .ok_or_else(|| {
                let known: Vec<_> = SERIES.iter().map(|series| series.name).collect();
                format!(
                    "only these kernels are supported: {} and `all`",
                    known.join(", ")
                )
            })
    }

    /// The series, the oldest first.
    pub fn series(self) -> &'static [Series] {
        self.0
    }

    /// The one series; none if more were asked for.
    pub fn single(self) -> Option<&'static Series> {
        match self.0 {
            [series] => Some(series),
            _ => None,
        }
    }
}

/// Which kernel of a series.
#[derive(Clone, Copy)]
pub enum Build<'a> {
    /// The one that Debian ships.
    Packaged,
    /// One that watches itself, built of Debian's source.
    Debug,
    /// The user's own, in this directory.
    In(&'a Path),
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
    /// Built with `debug-kernel.config`.
    pub debug: bool,
}

impl Kernel {
    /// Installs and builds what is missing, and finds the exact version.
    pub fn prepare(series: &Series, build: Build) -> Result<Kernel> {
        packages::ensure()?;
        let rootfs = rootfs::ensure(series)?;
        match build {
            Build::Packaged => Kernel::packaged(series, rootfs),
            Build::In(dir) => Kernel::custom(rootfs, dir, false),
            Build::Debug => {
                let packaged = Kernel::packaged(series, rootfs)?;
                let dir = sanitize::ensure(&packaged.version, series.source, &packaged.rootfs)?;
                Kernel::custom(packaged.rootfs, &dir, true)
            }
        }
    }

    fn packaged(series: &Series, rootfs: PathBuf) -> Result<Kernel> {
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

    /// Does it let drivers register buffers with io_uring? It has since 6.15.
    pub fn registers_buffers(&self) -> bool {
        let mut numbers = self.version.split(['.', '-']).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6_u32, 15_u32),
            _ => false,
        }
    }

    fn custom(rootfs: PathBuf, dir: &Path, debug: bool) -> Result<Kernel> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("failed to find the kernel directory `{}`", dir.display()))?;
        let version = only_entry(&dir.join("lib/modules"))?;
        let custom = Custom {
            modules: dir.join("lib/modules").join(&version),
            build: dir.join("build"),
            debug,
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
    fn all_is_more_than_one() {
        let all = Choice::parse("all").unwrap();
        assert_eq!(all.series().len(), SERIES.len());
        assert!(all.single().is_none());
    }

    #[test]
    fn an_unknown_series_is_refused_with_the_known_ones() {
        let choice = Choice::parse("6.12").unwrap();
        assert_eq!(choice.single().unwrap().suite, "trixie");
        assert!(Choice::parse("5.4").unwrap_err().contains("6.12, 7.3"));
    }
}
