// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding a ubd device underneath a file or block device.
//!
//! The driver refuses slots that are, or lie directly on, a ubd device. What
//! lies between (dm, md, loop, overlay, btrfs) only user space can look
//! through; this module does, before a slot is registered.

use crate::error::{Context, Error, Kind, Result};
use crate::sysfs;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Layers looked through before giving up: a stack this deep is a loop itself.
const MAX_DEPTH: usize = 16;

/// Refuses `path` as a slot if a ubd device lies anywhere underneath it.
pub fn check(path: &Path) -> Result<()> {
    match Walker::new()?.below(path)? {
        None => Ok(()),
        Some(chain) => Err(Error::new(
            Kind::Usage,
            format!(
                "`{}` cannot be a slot: it lies on a ubd device ({}), so that the fast path \
                 could wait for itself",
                path.display(),
                chain.join(" on ")
            ),
        )),
    }
}

/// Walks down from a file or device, through sysfs and the mount table.
struct Walker {
    sys: PathBuf,
    mounts: Vec<Mount>,
}

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    /// The mount that it covers a part of.
    parent: u64,
    /// `major:minor`
    dev: String,
    kind: String,
    source: String,
    options: String,
}

/// The names from the top to the ubd device.
type Chain = Vec<String>;

impl Walker {
    fn new() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo")
            .context(|| "failed to read the mount table")?;
        Ok(Walker {
            sys: "/sys".into(),
            mounts: text.lines().filter_map(Mount::parse).collect(),
        })
    }

    fn below(&self, path: &Path) -> Result<Option<Chain>> {
        self.path(path, 0)
    }

    fn path(&self, path: &Path, depth: usize) -> Result<Option<Chain>> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "the devices below `{}` are stacked in a circle",
                    path.display()
                ),
            ));
        }
        let meta = fs::metadata(path).context(|| format!("failed to find `{}`", path.display()))?;
        if meta.file_type().is_block_device() {
            self.device(&self.dev_dir(meta.rdev()), depth + 1)
        } else if libc::major(meta.dev()) != 0 {
            let chain = self.device(&self.dev_dir(meta.dev()), depth + 1)?;
            Ok(chain.map(|chain| on(path, chain)))
        } else {
            let chain = self.anonymous(path, depth + 1)?;
            Ok(chain.map(|chain| on(path, chain)))
        }
    }

    /// A file system without a device number of its own.
    fn anonymous(&self, path: &Path, depth: usize) -> Result<Option<Chain>> {
        match mount_id(path).and_then(|id| self.mount_of(id)) {
            Some(mount) => self.mount(mount, depth),
            None => Ok(None),
        }
    }

    fn mount_of(&self, id: u64) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.id == id)
    }

    fn mount(&self, mount: &Mount, depth: usize) -> Result<Option<Chain>> {
        match mount.kind.as_str() {
            _ if !mount.dev.starts_with("0:") => {
                self.device(&self.sys.join("dev/block").join(&mount.dev), depth + 1)
            }
            "overlay" => {
                first(mount.layers().into_iter().map(|dir| {
                    if mount_id(&dir) != Some(mount.id) {
                        return self.layer(&dir, depth);
                    }
                    // The overlay covers its own layer, as on `/etc` of a live system.
                    match self.mount_of(mount.parent) {
                        Some(below) if depth <= MAX_DEPTH => self.mount(below, depth + 1),
                        _ => Ok(None),
                    }
                }))
            }
            "btrfs" => {
                let devices = self.btrfs_devices(Path::new(&mount.source));
                first(devices.iter().map(|dir| self.device(dir, depth)))
            }
            _ => Ok(None),
        }
    }

    /// A directory of an overlay. Its path is that of the time of the mount;
    /// one that leads nowhere now cannot be followed.
    fn layer(&self, dir: &Path, depth: usize) -> Result<Option<Chain>> {
        match self.path(dir, depth) {
            Err(err) if err.kind() == Kind::NotFound => Ok(None),
            chain => chain,
        }
    }

    /// A block device, by its directory in sysfs.
    fn device(&self, dir: &Path, depth: usize) -> Result<Option<Chain>> {
        let Ok(dir) = fs::canonicalize(dir) else {
            return Ok(None);
        };
        let name = dir
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default()
            .to_owned();
        if name.starts_with("ubdb") || name.starts_with("ubdh") {
            return Ok(Some(vec![name]));
        }
        if depth > MAX_DEPTH {
            return Err(Error::new(
                Kind::Usage,
                format!("the devices below `{name}` are stacked in a circle"),
            ));
        }
        let disk = match dir.parent() {
            Some(disk) if dir.join("partition").exists() => disk,
            _ => &dir,
        };
        let chain = match sysfs::read(&disk.join("loop/backing_file")) {
            Ok(file) => self.layer(Path::new(&file), depth + 1)?,
            Err(_) => {
                let slaves = fs::read_dir(disk.join("slaves"))
                    .into_iter()
                    .flatten()
                    .flatten();
                first(slaves.map(|slave| self.device(&slave.path(), depth + 1)))?
            }
        };
        Ok(chain.map(|chain| on(Path::new(&name), chain)))
    }

    fn dev_dir(&self, dev: libc::dev_t) -> PathBuf {
        self.sys.join(format!(
            "dev/block/{}:{}",
            libc::major(dev),
            libc::minor(dev)
        ))
    }

    /// All devices of the btrfs of which `source` is one.
    fn btrfs_devices(&self, source: &Path) -> Vec<PathBuf> {
        let name = fs::canonicalize(source).ok();
        let Some(name) = name.as_deref().and_then(Path::file_name) else {
            return Vec::new();
        };
        fs::read_dir(self.sys.join("fs/btrfs"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("devices"))
            .filter(|devices| devices.join(name).exists())
            .filter_map(|devices| fs::read_dir(devices).ok())
            .flat_map(|devices| devices.flatten().map(|device| device.path()))
            .collect()
    }
}

impl Mount {
    /// `36 35 0:42 / /mnt rw,noatime shared:1 - btrfs /dev/sda1 rw,…`
    fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let (mut front, mut back) = (front.split(' '), back.split(' '));
        Some(Mount {
            id: front.next()?.parse().ok()?,
            parent: front.next()?.parse().ok()?,
            dev: front.next()?.to_owned(),
            kind: back.next()?.to_owned(),
            source: unescape(back.next()?),
            options: back.next().unwrap_or_default().to_owned(),
        })
    }

    /// The directories that an overlay shows.
    fn layers(&self) -> Vec<PathBuf> {
        let dirs = self.options.split(',').filter_map(|option| {
            let (key, value) = option.split_once('=')?;
            ["lowerdir", "lowerdir+", "datadir+", "upperdir"]
                .contains(&key)
                .then_some(value)
        });
        dirs.flat_map(|dirs| dirs.split(':'))
            .filter(|dir| !dir.is_empty())
            .map(|dir| unescape(dir).into())
            .collect()
    }
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok())
        {
            Some(byte) => {
                plain.push(byte.into());
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The mount that `path` lies on.
fn mount_id(path: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: all members are integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL and `stat` has room for the answer.
    let res = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            libc::STATX_MNT_ID,
            &mut stat,
        )
    };
    (res == 0 && stat.stx_mask & libc::STATX_MNT_ID != 0).then_some(stat.stx_mnt_id)
}

fn first(chains: impl Iterator<Item = Result<Option<Chain>>>) -> Result<Option<Chain>> {
    for chain in chains {
        if let found @ Some(_) = chain? {
            return Ok(found);
        }
    }
    Ok(None)
}

fn on(top: &Path, mut chain: Chain) -> Chain {
    chain.insert(0, top.display().to_string());
    chain
}

#[cfg(test)]
mod tests;
