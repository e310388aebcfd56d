// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest is given: a directory a run, `target/vm/N`.
//!
//! | host | guest | |
//! |---|---|---|
//! | the repository | `/ubd/repo` | read-only |
//! | `target/vm/N/run` | `/ubd/run` | read-only: scripts, programs (on PATH), module |
//! | `target/vm/N/out` | `/ubd/out` | what the guest wants to keep |
//! | `target/vm/N/kernel.log` | | its console |

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use rustix::fs::{flock, FlockOperation};

use crate::host;

const SCRIPTS: &[(&str, &str)] = &[
    ("setup.sh", include_str!("../guest/setup.sh")),
    ("run.sh", include_str!("../guest/run.sh")),
    ("shell.sh", include_str!("../guest/shell.sh")),
];

/// As many machines can run at once.
const MACHINES: u32 = 16;

/// The directory of one machine, ours until dropped.
pub struct Guest {
    pub dir: PathBuf,
    _lock: File,
    env: String,
}

impl Guest {
    /// Takes the first directory that no other run uses, and empties it.
    pub fn new() -> Result<Guest> {
        let parent = host::target().join("vm");
        fs::create_dir_all(&parent)
            .with_context(|| format!("failed to create `{}`", parent.display()))?;
        for number in 1..=MACHINES {
            let lock = File::create(parent.join(format!("{number}.lock")))?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let dir = parent.join(number.to_string());
            if dir.exists() {
                fs::remove_dir_all(&dir)
                    .with_context(|| format!("failed to empty `{}`", dir.display()))?;
            }
            for name in ["run/bin", "out", "tmp"] {
                fs::create_dir_all(dir.join(name))?;
            }
            let guest = Guest {
                dir,
                _lock: lock,
                env: String::new(),
            };
            for (name, text) in SCRIPTS {
                guest.write(name, text)?;
            }
            return Ok(guest
                .with_env(
                    "PATH",
                    "/ubd/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                )
                .with_env("HOME", "/root")
                .with_env("LANG", "C.UTF-8")
                .with_env("TMPDIR", "/tmp"));
        }
        bail!(
            "failed to find a free directory in `{}`: {MACHINES} machines are running",
            parent.display()
        )
    }

    /// Sets an environment variable of the guest's command.
    pub fn with_env(mut self, name: &str, value: &str) -> Guest {
        self.env.push_str(&format!("{name}={}\n", quote(value)));
        self
    }

    /// Puts a file in `/ubd/run/NAME`.
    pub fn copy(&self, file: &Path, name: &str) -> Result<()> {
        let to = self.dir.join("run").join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, &to).with_context(|| {
            format!("failed to copy `{}` to `{}`", file.display(), to.display())
        })?;
        Ok(())
    }

    /// Puts a directory and all below it in `/ubd/run/NAME`.
    pub fn copy_tree(&self, dir: &Path, name: &str) -> Result<()> {
        let list =
            fs::read_dir(dir).with_context(|| format!("failed to read `{}`", dir.display()))?;
        for entry in list {
            let entry = entry?;
            let name = format!("{name}/{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.copy_tree(&entry.path(), &name)?;
            } else {
                self.copy(&entry.path(), &name)?;
            }
        }
        Ok(())
    }

    /// Puts a program on the guest's PATH.
    pub fn program(&self, file: &Path) -> Result<()> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.copy(file, &format!("bin/{name}"))
    }

    /// Writes an executable script `/ubd/run/NAME`.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join("run").join(name);
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Writes the environment and the command, the last things before the machine starts.
    pub fn seal(&self, command: &[OsString]) -> Result<()> {
        let words: Vec<_> = command
            .iter()
            .map(|word| quote(&word.to_string_lossy()))
            .collect();
        self.write("env", &self.env)?;
        self.write("command", &format!("#!/bin/sh\nexec {}\n", words.join(" ")))
    }

    /// Forgets how the last run ended, so that the machine can boot again.
    pub fn forget(&self) -> Result<()> {
        for name in ["out/.started", "out/.exit-code", "initramfs"] {
            match fs::remove_file(self.dir.join(name)) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// True once the guest's user space is up.
    pub fn started(&self) -> bool {
        self.dir.join("out/.started").exists()
    }

    /// What the command ended with; none if it never did.
    pub fn exit_code(&self) -> Option<u8> {
        fs::read_to_string(self.dir.join("out/.exit-code"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

/// Quotes a word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_the_shell() {
        for word in ["", "a b", "it's", "$HOME `x` \"y\" \\", "*"] {
            let script = format!("printf %s {}", quote(word));
            let mut sh = std::process::Command::new("sh");
            assert_eq!(host::output(sh.args(["-c", &script])).unwrap(), word);
        }
    }
}
