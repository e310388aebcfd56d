// SPDX-License-Identifier: MIT OR Apache-2.0
//! Somebody who uses a disk without a file system and past the page cache.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use fastrand::Rng;

use super::backing::{noise, same};
use super::io::{open_direct, read_direct, write_flags, Aligned};

/// The longest I/O, bytes: one bio, whatever the buffer.
const LONGEST: usize = 128 << 10;

/// Reads and writes of 512 bytes to 128 KiB at any sector, one at a time, beside a model. The node
/// stays open, or udev would read it at a time of its own and spoil the counts.
pub struct RawUser {
    file: File,
    rng: Rng,
    /// All I/O is of one such block, bytes; or of any size.
    pub block: Option<usize>,
    /// What the disk holds.
    pub bytes: Vec<u8>,
}

impl RawUser {
    pub fn of(node: &str, bytes: Vec<u8>) -> Result<RawUser> {
        Ok(RawUser {
            file: open_direct(node, true)?,
            rng: Rng::with_seed(0x7261_7721),
            block: None,
            bytes,
        })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn read(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let (at, len) = self.place();
            let mut is = Aligned::shifted(len, self.rng.usize(..8) * 512);
            self.file
                .read_exact_at(&mut is, at as u64)
                .with_context(|| format!("read {number}, of {len} at {at}"))?;
            same(&is, &self.bytes[at..at + len])
                .with_context(|| format!("read {number}, of {len} at {at}"))?;
        }
        Ok(())
    }

    pub fn write(&mut self, count: usize) -> Result<()> {
        self.write_flags(count, 0)
    }

    /// With flags such as RWF_DSYNC.
    pub fn write_flags(&mut self, count: usize, flags: i32) -> Result<()> {
        for number in 0..count {
            let (at, len) = self.place();
            let data = noise(self.rng.usize(..), len);
            let buffer = Aligned::copy_of(data, self.rng.usize(..8) * 512);
            let n = write_flags(&self.file, &buffer, at as u64, flags)
                .with_context(|| format!("write {number}, of {len} at {at}"))?;
            self.bytes[at..at + n].copy_from_slice(&data[..n]);
            anyhow::ensure!(n == len, "write of {len} at {at} wrote {n}");
        }
        Ok(())
    }

    /// Compares all of the disk, and the start of `backing`, read past the page cache.
    pub fn check(&self, backing: impl AsRef<std::path::Path>) -> Result<()> {
        let mut is = Aligned::new(self.bytes.len());
        self.file.read_exact_at(&mut is, 0)?;
        same(&is, &self.bytes).context("all of the disk")?;
        let is = read_direct(backing, 0, self.bytes.len())?;
        same(&is, &self.bytes).context("the backing")
    }

    /// Where the next I/O is, and how long.
    fn place(&mut self) -> (usize, usize) {
        if let Some(block) = self.block {
            return (self.rng.usize(..self.bytes.len() / block) * block, block);
        }
        let longest = LONGEST >> (self.rng.u32(0..9));
        let len = self.rng.usize(1..=(longest / 512)) * 512;
        let at = self.rng.usize(0..=(self.bytes.len() - len) / 512) * 512;
        (at, len)
    }
}
