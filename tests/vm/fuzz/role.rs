// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that do as they like: this program again, told by its environment what to be.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use ubd_bpf::control::Control;

use super::{control, server, user};
use crate::support::wait_for;

/// What a process is: `NAME ID SEED DISK`.
const ROLE: &str = "UBD_VM_FUZZ_ROLE";

/// Its exit status when it has seen what must not be.
const VIOLATION: i32 = 3;

/// What all roles are told.
pub struct Orders {
    /// Their device, or the first of a few.
    pub id: u32,
    pub seed: u64,
    /// A disk that may be written to.
    pub disk: String,
}

/// Plays the role that this process was started for, if it was; then it does not return.
pub fn play() {
    let Ok(text) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<_> = text.split(' ').collect();
    let [name, id, seed, disk] = words.as_slice() else {
        panic!("`{text}` is not a role");
    };
    let orders = Orders {
        id: id.parse().expect("a number"),
        seed: seed.parse().expect("a seed"),
        disk: (*disk).to_owned(),
    };
    // SAFETY: asks for a signal; no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    match *name {
        "control" => control::root(&orders),
        "slots" => control::slots(&orders),
        "nobody" => control::nobody(&orders),
        "server" => server::run(&orders),
        "user" => user::run(&orders),
        _ => panic!("`{name}` is not a role"),
    }
    std::process::exit(0);
}

/// Ends the process: it could do what nobody must be able to.
pub fn violation(what: &str) -> ! {
    eprintln!("{what}");
    std::process::exit(VIOLATION)
}

/// Such a process.
pub struct Role {
    name: &'static str,
    id: u32,
    child: Child,
    said: File,
}

impl Role {
    pub fn start(name: &'static str, id: u32, seed: u64, disk: &str) -> Result<Role> {
        let said = tempfile::tempfile().context("failed to make a temporary file")?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(ROLE, format!("{name} {id} {seed} {disk}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.try_clone()?)
            .process_group(0);
        if name == "nobody" {
            command.uid(65534).gid(65534);
        }
        let child = command.spawn().context("failed to start a process")?;
        Ok(Role {
            name,
            id,
            child,
            said,
        })
    }

    /// Kills it; an error if that does not end it, or if it has seen what must not be.
    pub fn end(mut self) -> Result<()> {
        self.kill();
        let pid = self.child.id();
        if self.wait(10).is_err() {
            // A server that opens its own disk waits for itself, dead or alive, and is not gone before
            // its last thread is. STOP is the way out, and has to come before the kernel complains.
            Control::open()?.stop(self.id)?;
        }
        let gone = self.wait(30);
        if gone.is_err() {
            let stacks = crate::support::sh(format!(
                "cd /proc/{pid}/task; grep -H '' */comm */wchan */stack || true"
            ));
            bail!("a `{}` cannot be killed:\n{}", self.name, stacks?);
        }
        gone?;
        if self.child.try_wait()?.and_then(|status| status.code()) == Some(VIOLATION) {
            let mut text = String::new();
            self.said.rewind()?;
            self.said.read_to_string(&mut text)?;
            bail!("a `{}`: {text}", self.name);
        }
        Ok(())
    }

    fn wait(&mut self, most: u64) -> Result<()> {
        wait_for("a killed process to go", Duration::from_secs(most), || {
            !matches!(self.child.try_wait(), Ok(None))
        })
    }

    fn kill(&self) {
        // SAFETY: the group is the child's own, and it has not been reaped.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.try_wait();
    }
}
