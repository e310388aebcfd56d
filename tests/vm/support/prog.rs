// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF programs.

use std::path::PathBuf;

use anyhow::Result;

use super::sh;

/// The object of the program `tests/bpf/NAME.bpf.c`.
pub fn object(name: &str) -> PathBuf {
    let dir =
        std::env::var_os("UBD_BPF_DIR").expect("UBD_BPF_DIR names the compiled test programs");
    PathBuf::from(dir).join(format!("{name}.bpf.o"))
}

/// The object of the program `bpf/NAME.bpf.c`, which ships.
pub fn shipped_object(name: &str) -> PathBuf {
    let tests = object(name);
    tests
        .ancestors()
        .nth(2)
        .expect("UBD_BPF_DIR has a parent")
        .join(format!("{name}.bpf.o"))
}

/// A loaded program; unloaded when dropped.
pub struct Prog {
    name: String,
}

impl Prog {
    /// `ubd-bpf load` of a test program under its own name, with `VAR=VALUE` settings.
    pub fn load(name: &str, set: &[&str]) -> Result<Prog> {
        Prog::load_as(&object(name), name, set)
    }

    /// `ubd-bpf load OBJECT --name NAME`.
    pub fn load_as(object: &std::path::Path, name: &str, set: &[&str]) -> Result<Prog> {
        sh(format!(
            "ubd-bpf load {} --name {name} {}",
            object.display(),
            settings(set)
        ))?;
        Ok(Prog {
            name: name.to_owned(),
        })
    }

    /// Puts another program under the name of this one, while it is in use.
    pub fn replace(&self, object: &std::path::Path, set: &[&str]) -> Result<()> {
        sh(format!(
            "ubd-bpf load {} --name {} --replace {}",
            object.display(),
            self.name,
            settings(set)
        ))?;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ubd-bpf unload`.
    pub fn unload(self) -> Result<()> {
        sh(format!("ubd-bpf unload {}", self.name))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Prog {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = sh(format!("ubd-bpf unload {}", self.name));
    }
}

fn settings(set: &[&str]) -> String {
    set.iter().map(|set| format!("--set '{set}' ")).collect()
}
