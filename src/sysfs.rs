// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel tells in sysfs: devices, their state, their counters.

use crate::error::{Context, Error, Kind, Result};
use serde::Serialize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The class of the character nodes; it lists every device, started or not.
const CHAR_CLASS: &str = "/sys/class/ubd-char";

/// The numbers of all devices, in order; none when the driver is not loaded.
pub fn device_ids() -> Result<Vec<u32>> {
    let entries = match fs::read_dir(CHAR_CLASS) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("failed to list `{CHAR_CLASS}`"))?,
    };
    let mut ids: Vec<u32> = entries
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_prefix("ubdc")?
                .parse()
                .ok()
        })
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The number of a device named as people do: `3`, `ubdb3`, `/dev/ubdb3`.
pub fn parse_device(text: &str) -> Result<u32> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    name.strip_prefix("ubdb")
        .unwrap_or(name)
        .parse()
        .map_err(|_| {
            Error::new(
                Kind::Usage,
                format!("`{text}` is not a ubd device; write `3` or `/dev/ubdb3`"),
            )
        })
}

/// A limit of the disk `dev` or, for a partition, of its disk.
pub fn queue_attr(dev: libc::dev_t, name: &str) -> Option<u64> {
    let dir = PathBuf::from(format!(
        "/sys/dev/block/{}:{}",
        libc::major(dev),
        libc::minor(dev)
    ));
    [format!("queue/{name}"), format!("../queue/{name}")]
        .iter()
        .find_map(|attr| read(&dir.join(attr)).ok()?.parse().ok())
}

/// The text of an attribute, without the newline.
pub fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned())
}

/// The directory `/sys/block/ubdbN` of a device that was started.
#[derive(Debug, Clone)]
pub struct Disk {
    id: u32,
    dir: PathBuf,
}

impl Disk {
    /// The disk of device `id`, which need not exist.
    pub fn new(id: u32) -> Self {
        Disk {
            id,
            dir: format!("/sys/block/ubdb{id}").into(),
        }
    }

    /// Whether the device has been started and not been stopped.
    pub fn exists(&self) -> bool {
        self.dir.exists()
    }

    /// An attribute of the driver, of those in `ubd/`.
    pub fn attr(&self, name: &str) -> Result<String> {
        let path = self.dir.join("ubd").join(name);
        read(&path).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound if !self.exists() => {
                Error::new(Kind::NotFound, format!("device {} is not running", self.id))
            }
            // The driver is of another version than this library.
            _ => Error::os(format!("failed to read `{}`", path.display()), err)
                .with_kind(Kind::Protocol),
        })
    }

    /// The name of the bound program, if there is one.
    pub fn program(&self) -> Result<Option<String>> {
        self.attr("program")
            .map(|name| (!name.is_empty()).then_some(name))
    }

    /// The directories of the disk and of its partitions.
    pub fn parts(&self) -> Vec<PathBuf> {
        let prefix = format!("ubdb{}p", self.id);
        let parts = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.starts_with(&prefix))
            });
        std::iter::once(self.dir.clone())
            .chain(parts.map(|entry| entry.path()))
            .collect()
    }

    /// All counters, each since the device was added.
    pub fn stats(&self) -> Result<Stats> {
        let count = |name: &str| {
            let text = self.attr(name)?;
            text.parse().map_err(|err| {
                Error::caused_by(
                    Kind::Protocol,
                    format!("failed to read the counter `{name}`"),
                    err,
                )
            })
        };
        let of_op = |op: &str| {
            Ok(OpCounts {
                mapped: count(&format!("{op}_mapped"))?,
                zero: count(&format!("{op}_zero"))?,
                declined: count(&format!("{op}_declined"))?,
                forwarded: count(&format!("{op}_forwarded"))?,
                error: count(&format!("{op}_error"))?,
                bad: count(&format!("{op}_bad"))?,
                mapped_sectors: count(&format!("{op}_mapped_sectors"))?,
                zero_sectors: count(&format!("{op}_zero_sectors"))?,
                declined_sectors: count(&format!("{op}_declined_sectors"))?,
                forwarded_sectors: count(&format!("{op}_forwarded_sectors"))?,
            })
        };
        Ok(Stats {
            read: of_op("read")?,
            write: of_op("write")?,
            flush: FlushCounts {
                mapped: count("flush_mapped")?,
                declined: count("flush_declined")?,
            },
            discard: of_op("discard")?,
            write_zeroes: of_op("write_zeroes")?,
            mapped: count("mapped")?,
            zero: count("zero")?,
            declined: count("declined")?,
            forwarded: count("forwarded")?,
            forwarded_sectors: count("forwarded_sectors")?,
            error: count("error")?,
            bad: count("bad")?,
            splits: count("splits")?,
            eagain: count("eagain")?,
            file_worker: count("file_worker")?,
            flush_slots: count("flush_slots")?,
            flush_daemon: count("flush_daemon")?,
        })
    }
}

/// The bios of one kind, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OpCounts {
    /// Sent to the backing inside the kernel.
    pub mapped: u64,
    /// Answered with zeroes inside the kernel.
    pub zero: u64,
    /// Left to the daemon.
    pub declined: u64,
    /// Requests of those that the daemon had the kernel do; one may be several bios, or a part of
    /// one.
    pub forwarded: u64,
    /// Failed by the program.
    pub error: u64,
    /// Declined because the program's verdict was bad; counted there as well.
    pub bad: u64,
    pub mapped_sectors: u64,
    pub zero_sectors: u64,
    pub declined_sectors: u64,
    pub forwarded_sectors: u64,
}

/// The flushes; programs never see them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FlushCounts {
    /// Carried out in the kernel alone.
    pub mapped: u64,
    /// Sent to the daemon, beside what the kernel did.
    pub declined: u64,
}

/// The counters of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub read: OpCounts,
    pub write: OpCounts,
    pub flush: FlushCounts,
    pub discard: OpCounts,
    pub write_zeroes: OpCounts,
    pub mapped: u64,
    pub zero: u64,
    pub declined: u64,
    pub forwarded: u64,
    pub forwarded_sectors: u64,
    pub error: u64,
    pub bad: u64,
    /// Bios that were cut because a verdict held for their first part only.
    pub splits: u64,
    /// Bios that may not wait and would have had to.
    pub eagain: u64,
    /// Bios that the kernel's worker carried to files.
    pub file_worker: u64,
    /// Flushes sent to slots.
    pub flush_slots: u64,
    /// Flushes sent to the daemon.
    pub flush_daemon: u64,
}

impl Stats {
    /// The share of bios that never left the kernel, from 0 to 1; `None`
    /// before the first bio.
    pub fn hit_rate(&self) -> Option<f64> {
        let hits = self.mapped + self.zero;
        let all = hits + self.declined;
        (all > 0).then(|| hits as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_three_names() {
        for text in ["12", "ubdb12", "/dev/ubdb12"] {
            assert_eq!(parse_device(text).unwrap(), 12);
        }
        for text in ["", "sda", "/dev/sda", "ubdb", "-1", "ubdb1p1"] {
            assert_eq!(
                parse_device(text).unwrap_err().kind(),
                Kind::Usage,
                "{text}"
            );
        }
    }

    #[test]
    fn a_device_that_does_not_run_is_not_found() {
        let err = Disk::new(u32::MAX).stats().unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound);
    }

    #[test]
    fn the_hit_rate_counts_what_stayed_in_the_kernel() {
        let stats = Stats {
            mapped: 2,
            zero: 1,
            declined: 1,
            ..Stats::default()
        };
        assert_eq!(stats.hit_rate(), Some(0.75));
        assert_eq!(Stats::default().hit_rate(), None);
    }
}
