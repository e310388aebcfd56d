// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ubd device and its counters.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Index;

use anyhow::{ensure, Context, Result};

use super::sh;

/// A device made by `ubd add`; deleted by force when dropped.
pub struct Ubd {
    id: u32,
    gone: bool,
}

impl Ubd {
    /// `ubd add --show ARGS`, and waits until udev has looked at the new disk.
    pub fn add(args: &[&str]) -> Result<Ubd> {
        let node = sh(format!("ubd add --show {}", args.join(" ")))?;
        let id = node
            .strip_prefix("/dev/ubdb")
            .and_then(|id| id.parse().ok());
        let device = Ubd::adopt(id.with_context(|| format!("`ubd add --show` printed `{node}`"))?);
        sh("settle")?;
        Ok(device)
    }

    /// A guard for a device that came about otherwise.
    pub fn adopt(id: u32) -> Ubd {
        Ubd { id, gone: false }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn node(&self) -> String {
        format!("/dev/ubdb{}", self.id)
    }

    /// An attribute of `/sys/block/ubdbN/`, such as `queue/nr_requests` or `ubd/program`.
    pub fn attr(&self, name: &str) -> Result<String> {
        let path = format!("/sys/block/ubdb{}/{name}", self.id);
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
        Ok(text.trim_end().to_owned())
    }

    /// The daemon.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.attr("ubd/daemon_pid")?.parse()?)
    }

    /// The context switches of all threads of the daemon so far, of both kinds.
    pub fn daemon_switches(&self) -> Result<u64> {
        let pid = self.pid()?;
        let sum = sh(format!(
            "cat /proc/{pid}/task/*/status | awk '/ctxt_switches/ {{ n += $2 }} END {{ print n }}'"
        ))?;
        Ok(sum.parse()?)
    }

    pub fn counters(&self) -> Result<Counters> {
        let dir = format!("/sys/block/ubdb{}/ubd", self.id);
        let mut counters = BTreeMap::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("failed to list `{dir}`"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if ["cookie", "daemon_pid", "nr_slots"].contains(&name.as_str()) {
                continue;
            }
            if let Ok(count) = self.attr(&format!("ubd/{name}"))?.parse() {
                counters.insert(name, count);
            }
        }
        Ok(Counters(counters))
    }

    /// `ubd del`, without force.
    pub fn del(mut self) -> Result<()> {
        sh(format!("ubd del {}", self.id))?;
        self.gone = true;
        Ok(())
    }
}

impl Drop for Ubd {
    fn drop(&mut self) {
        if !self.gone {
            // What fails here is found among the leftovers.
            let _ = sh(format!("ubd del --force {}", self.id));
        }
    }
}

/// The counters of a device, by the names of `/sys/block/ubdbN/ubd/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Index<&str> for Counters {
    type Output = u64;

    fn index(&self, name: &str) -> &u64 {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("there is no counter `{name}`"))
    }
}

impl Counters {
    /// By how much they have grown.
    pub fn since(&self, before: &Counters) -> Counters {
        Counters(
            self.0
                .iter()
                .map(|(name, n)| (name.clone(), n - before[name]))
                .collect(),
        )
    }

    /// Those that are not 0, for messages.
    pub fn summary(&self) -> String {
        let parts: Vec<_> = self
            .0
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        parts.join(", ")
    }

    /// At least `n` bios were mapped, and none was left to the daemon, refused or failed.
    pub fn all_mapped(&self, n: u64) -> Result<()> {
        ensure!(
            self["declined"] == 0,
            "declined is not 0: {}",
            self.summary()
        );
        ensure!(
            self["bad"] == 0 && self["error"] == 0,
            "bad or error is not 0: {}",
            self.summary()
        );
        ensure!(
            self["mapped"] >= n,
            "mapped is less than {n}: {}",
            self.summary()
        );
        Ok(())
    }

    /// At least `n` bios went to the daemon, and none was mapped. A flush before the first write
    /// need not trouble the daemon.
    pub fn all_declined(&self, n: u64) -> Result<()> {
        ensure!(
            self["mapped"] == self["flush_mapped"] && self["zero"] == 0,
            "mapped or zero is not 0: {}",
            self.summary()
        );
        ensure!(
            self["declined"] >= n,
            "declined is less than {n}: {}",
            self.summary()
        );
        Ok(())
    }
}
