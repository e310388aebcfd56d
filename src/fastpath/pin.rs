// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/sys/fs/bpf/ubd/NAME/`: what keeps a program in the kernel after its loader has ended.
//!
//! ```text
//! link         the registration; without it the program goes
//! prog_FUNC    the program, for bpftool
//! map_VAR      its maps, for bpftool and for daemons that feed them
//! ```

use super::{Loaded, Name};
use crate::error::{Context, Error, Kind, Result};
use libbpf_rs::MapCore;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{mount, MsFlags};
use nix::sys::statfs::{statfs, FsType};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: FsType = FsType(0xcafe_4a11);
const ROOT: &str = "/sys/fs/bpf/ubd";

/// The one who holds this may load and unload; others wait.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] Flock<File>);

impl Lock {
    /// Waits for the lock; mounts bpffs and makes `ubd/` in it where they are missing.
    pub fn take() -> Result<Self> {
        mount_bpffs()?;
        match DirBuilder::new().mode(0o700).create(ROOT) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::os(format!("failed to make `{ROOT}`"), err));
            }
            _ => (),
        }
        let dir = File::open(ROOT).context(|| format!("failed to open `{ROOT}`"))?;
        let owner = dir
            .metadata()
            .context(|| format!("failed to look at `{ROOT}`"))?
            .uid();
        if owner != 0 {
            return Err(Error::new(
                Kind::Permission,
                format!("`{ROOT}` belongs to user {owner}, and not to root: remove it"),
            ));
        }
        match Flock::lock(dir, FlockArg::LockExclusive) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, err)) => Err(Error::os(format!("failed to lock `{ROOT}`"), err)),
        }
    }
}

fn mount_bpffs() -> Result<()> {
    if statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPFFS_MAGIC) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        // Whoever can open our directory can lock it.
        Some("mode=0700"),
    )
    .context(|| {
        format!("failed to mount the BPF file system; do it with `mount -t bpf bpf {BPFFS}`")
    })
}

/// The directory of program `name`. bpffs reserves dots, so they become colons.
pub fn dir(name: &Name) -> PathBuf {
    Path::new(ROOT).join(name.as_str().replace('.', ":"))
}

/// The pinned registration of program `name`.
pub fn link(name: &Name) -> PathBuf {
    dir(name).join("link")
}

/// Pins a program that was just registered: all of it, or nothing.
pub fn pin(loaded: &mut Loaded, link: &mut libbpf_rs::Link) -> Result<()> {
    let guard = NewDir::make(dir(&loaded.name))?;
    let path = guard.path.join("link");
    link.pin(&path).map_err(|err| pin_error(&path, err))?;
    pin_parts(loaded, &guard.path)?;
    guard.keep();
    Ok(())
}

/// Pins the maps and the program beside a link that was updated, in place of the old ones.
pub fn repin(loaded: &mut Loaded) -> Result<()> {
    let dir = dir(&loaded.name);
    for old in fs::read_dir(&dir).context(|| format!("failed to list `{}`", dir.display()))? {
        let old = old.context(|| format!("failed to list `{}`", dir.display()))?;
        if old.file_name() != "link" {
            fs::remove_file(old.path())
                .context(|| format!("failed to remove `{}`", old.path().display()))?;
        }
    }
    pin_parts(loaded, &dir)
}

/// Removes the pins of program `name`, if there are any.
pub fn remove(name: &Name) -> Result<()> {
    let dir = dir(name);
    match fs::remove_dir_all(&dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.context(|| format!("failed to remove `{}`", dir.display())),
    }
}

fn pin_parts(loaded: &mut Loaded, dir: &Path) -> Result<()> {
    for mut prog in loaded.programs() {
        let path = dir.join(part("prog", &prog.name().to_string_lossy()));
        prog.pin(&path).map_err(|err| pin_error(&path, err))?;
    }
    for mut map in loaded.object.maps_mut() {
        let path = dir.join(part("map", &map.name().to_string_lossy()));
        map.pin(&path).map_err(|err| pin_error(&path, err))?;
    }
    Ok(())
}

fn part(what: &str, name: &str) -> String {
    format!("{what}_{}", name.replace('.', "_"))
}

fn pin_error(path: &Path, err: libbpf_rs::Error) -> Error {
    Error::caused_by(Kind::Io, format!("failed to pin `{}`", path.display()), err)
}

/// A directory that goes again unless all that belongs in it came.
struct NewDir {
    path: PathBuf,
    keep: bool,
}

impl NewDir {
    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).context(|| format!("failed to make `{}`", path.display()))?;
        Ok(NewDir { path, keep: false })
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(err) = fs::remove_dir_all(&self.path) {
            log::warn!("failed to remove `{}`: {err}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_no_dots() {
        let name = "a.b".parse::<Name>().unwrap();
        assert_eq!(link(&name), Path::new("/sys/fs/bpf/ubd/a:b/link"));
        assert_eq!(part("map", "prog.rodata"), "map_prog_rodata");
    }
}
