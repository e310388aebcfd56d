// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ubd device, made and deleted with the tools that a user has.

use std::fs;

use anyhow::{Context, Result};
use ubd_bpf::sysfs::{self, Disk, Stats};

use crate::shell::sh;

pub struct Device {
    pub id: u32,
    disk: Disk,
}

impl Device {
    /// `ubd add -t loop ARGS`; returns once udev has looked at the new disk.
    pub fn add(args: &str) -> Result<Device> {
        let node = sh(format!("ubd add -t loop --show {args}"))?;
        let id = sysfs::parse_device(&node)?;
        sh("udevadm settle --timeout=60")?;
        Ok(Device {
            id,
            disk: Disk::new(id),
        })
    }

    pub fn node(&self) -> String {
        format!("/dev/ubdb{}", self.id)
    }

    pub fn stats(&self) -> Result<Stats> {
        Ok(self.disk.stats()?)
    }

    pub fn daemon(&self) -> Result<i32> {
        let pid = self.disk.attr("daemon_pid")?;
        pid.parse()
            .with_context(|| format!("`{pid}` is not a process"))
    }

    /// How often a thread of the daemon has been switched away from, for whatever reason: it was
    /// woken as often.
    pub fn daemon_wakeups(&self) -> Result<u64> {
        let dir = format!("/proc/{}/task", self.daemon()?);
        let mut sum = 0;
        for task in fs::read_dir(&dir).with_context(|| format!("failed to list `{dir}`"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            sum += status
                .lines()
                .filter(|line| line.contains("ctxt_switches"))
                .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(sum)
    }

    /// `ubd del`, which refuses when something still uses the device.
    pub fn del(self) -> Result<()> {
        sh(format!("ubd del {}", self.id))?;
        Ok(())
    }
}
