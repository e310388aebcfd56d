// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ways that an I/O can go.

use anyhow::{ensure, Result};

use super::{Counters, Prog, Ubd};

/// Who does the I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The driver, in place where it may.
    Mapped,
    /// The driver, counted.
    Tracked,
    /// The daemon.
    Declined,
    /// The driver, where the daemon says.
    Forwarded,
}

impl Way {
    /// What `ubd add` is told, if the target's own program maps.
    pub fn option(self) -> &'static str {
        match self {
            Way::Mapped | Way::Tracked => "--bpf-fastpath",
            Way::Declined => "",
            Way::Forwarded => "--forward",
        }
    }

    /// A device over `path`, and the program that it needs to be loaded.
    pub fn device(self, path: &str, more: &str) -> Result<(Ubd, Option<Prog>)> {
        let (option, prog) = match self {
            Way::Tracked => (
                "--bpf-fastpath=linear_tracked",
                Some(Prog::load("linear_tracked", &[])?),
            ),
            _ => (self.option(), None),
        };
        let ubd = Ubd::add(&["-t loop -q 2", option, more, "-f", path])?;
        Ok((ubd, prog))
    }

    /// All I/Os of each of `ops` went this way, and no program or verdict is to blame.
    pub fn check(self, ops: &[&str], count: &Counters) -> Result<()> {
        let (some, none) = match self {
            Way::Mapped | Way::Tracked => ("mapped", "declined"),
            Way::Declined | Way::Forwarded => ("declined", "mapped"),
        };
        for op in ops {
            ensure!(
                count[&format!("{op}_{some}")] > 0 && count[&format!("{op}_{none}")] == 0,
                "not all {op}s were {self:?}: {}",
                count.summary()
            );
            // Others may have been forwarded before there was a program.
            ensure!(
                (count[&format!("{op}_forwarded")] > 0) == (self == Way::Forwarded),
                "{op}s, {self:?}: {}",
                count.summary()
            );
        }
        ensure!(
            count["error"] == 0
                && count["bad"] == 0
                && (count["tracked"] > 0) == (self == Way::Tracked),
            "{self:?}: {}",
            count.summary()
        );
        Ok(())
    }
}
