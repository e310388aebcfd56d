// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache outside the clone. An entry is a directory named by a hash of all that goes into it,
//! built aside and renamed into place, so that one that exists is whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context, Result};
use rustix::fs::{flock, FlockOperation};
use sha2::{Digest, Sha256};

use crate::progress;

/// `$XDG_CACHE_HOME/ubd-bpf`, created if need be.
pub fn dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .ok_or_else(|| anyhow!("neither XDG_CACHE_HOME nor HOME is set"))?;
    let dir = base.join("ubd-bpf");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create `{}`", dir.display()))?;
    Ok(dir)
}

/// A short name for `parts`: equal parts, equal name.
pub fn key<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An exclusive lock, held until dropped; waits for the process that has it.
pub fn lock(path: &Path) -> Result<File> {
    let file =
        File::create(path).with_context(|| format!("failed to create `{}`", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress::step(
            &format!("waiting for another run ({})", path.display()),
            || {
                flock(&file, FlockOperation::LockExclusive)
                    .with_context(|| format!("failed to lock `{}`", path.display()))
            },
        )?;
    }
    Ok(file)
}

/// The entry `name` for `key`. If it is missing, `build` fills an empty directory, which then
/// becomes the entry.
pub fn entry(name: &str, key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = dir()?;
    let entry = cache.join(format!("{name}-{key}"));
    if entry.exists() {
        return Ok(entry);
    }
    let _lock = lock(&cache.join(format!("{name}.lock")))?;
    if entry.exists() {
        return Ok(entry);
    }
    let aside = cache.join(format!("{name}-{key}.tmp"));
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| {
            format!(
                "failed to remove `{}`, left by an earlier run",
                aside.display()
            )
        })?;
    }
    fs::create_dir(&aside).with_context(|| format!("failed to create `{}`", aside.display()))?;
    build(&aside)?;
    fs::rename(&aside, &entry)
        .with_context(|| format!("failed to move `{}` into place", entry.display()))?;
    Ok(entry)
}
