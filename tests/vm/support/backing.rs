// SPDX-License-Identifier: MIT OR Apache-2.0
//! A backing of which every byte is known, shown through a window.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{ensure, Context, Result};

use super::io::{open_buffered, read_direct};
use super::{sh, Files, LoopDisk, RamDisk, Ubd};

/// How much of a backing is known: the window, and a guard on both sides.
pub const KNOWN: usize = 10 << 20;

/// What a device can be backed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A RAM disk: logical blocks of 512 bytes, no write-zeroes.
    Disk,
    /// A loop device of the kernel: logical blocks of 4096 bytes, with discard and write-zeroes.
    Disk4k,
    /// A file on ext4, opened O_DIRECT on both sides.
    FileDirect,
    /// A file on ext4, through its page cache on both sides.
    FileBuffered,
}

impl Kind {
    pub fn is_file(self) -> bool {
        matches!(self, Kind::FileDirect | Kind::FileBuffered)
    }

    /// Whether it can discard, to zeroes, and write zeroes by itself.
    pub fn clears(self) -> bool {
        self != Kind::Disk
    }

    /// Bytes.
    pub fn block(self) -> u64 {
        if self == Kind::Disk4k {
            4096
        } else {
            512
        }
    }
}

#[allow(dead_code)] // held for their drops
enum Guard {
    Ram(RamDisk),
    Files(Files),
    Loop(LoopDisk, Files),
}

/// The backing; gone when dropped.
pub struct Backing {
    pub kind: Kind,
    pub path: PathBuf,
    /// What the device shows of it, in bytes.
    pub window: Range<usize>,
    content: Vec<u8>,
    _guard: Guard,
}

impl Backing {
    /// A backing full of noise, with a window that is odd to everything but its block.
    pub fn new(kind: Kind) -> Result<Backing> {
        let block = kind.block() as usize;
        Backing::with_window(kind, 3 * block..(8 << 20) - 2 * block)
    }

    pub fn with_window(kind: Kind, window: Range<usize>) -> Result<Backing> {
        let (guard, path) = match kind {
            Kind::Disk => {
                let disk = RamDisk::new()?;
                let path = disk.node().into();
                (Guard::Ram(disk), path)
            }
            Kind::Disk4k => {
                let files = Files::ext4()?;
                let disk = LoopDisk::new(&files.file("disk", KNOWN as u64)?, "--sector-size 4096")?;
                let path = disk.node().into();
                (Guard::Loop(disk, files), path)
            }
            Kind::FileDirect | Kind::FileBuffered => {
                let files = Files::ext4()?;
                let path = files.file("backing", KNOWN as u64)?;
                (Guard::Files(files), path)
            }
        };
        let mut content = vec![0; KNOWN];
        for (page, chunk) in content.chunks_mut(4096).enumerate() {
            chunk.copy_from_slice(noise(page * 4099, chunk.len()));
        }
        let file = open_buffered(&path)?;
        file.write_all_at(&content, 0)
            .context("failed to fill the backing")?;
        file.sync_all()?;
        // Whoever uses a disk past this cache must not meet it.
        if !kind.is_file() {
            sh(format!("blockdev --flushbufs {}", path.display()))?;
        }
        Ok(Backing {
            kind,
            path,
            window,
            content,
            _guard: guard,
        })
    }

    /// What the device shows at first.
    pub fn shown(&self) -> Vec<u8> {
        self.content[self.window.clone()].to_vec()
    }

    /// The device that shows the window, with the same mode on both sides; `more` are further
    /// options of `ubd add`.
    pub fn device(&self, more: &str) -> Result<Ubd> {
        let direct = match self.kind {
            Kind::FileDirect => "--direct-io=on",
            _ => "",
        };
        Ubd::add(&[&format!(
            "-t loop -f {} --offset {} --sizelimit {} -b {} {direct} {more}",
            self.path.display(),
            self.window.start,
            self.window.len(),
            self.kind.block()
        )])
    }

    /// Compares the backing itself with what the window should hold by now; what lies outside the
    /// window must be as it was.
    pub fn check(&self, window: &[u8]) -> Result<()> {
        ensure!(
            window.len() == self.window.len(),
            "the model has another size than the window"
        );
        let is = match self.kind {
            // Its page cache is the truth.
            Kind::FileBuffered => {
                let mut is = vec![0; KNOWN];
                open_buffered(&self.path)?.read_exact_at(&mut is, 0)?;
                is
            }
            _ => read_direct(&self.path, 0, KNOWN)?,
        };
        same(&is[..self.window.start], &self.content[..self.window.start])
            .context("before the window")?;
        same(&is[self.window.clone()], window).context("in the window")?;
        same(&is[self.window.end..], &self.content[self.window.end..]).context("behind the window")
    }
}

/// Fails at the first byte that differs.
pub fn same(is: &[u8], should_be: &[u8]) -> Result<()> {
    if is == should_be {
        return Ok(());
    }
    let at = is
        .iter()
        .zip(should_be)
        .position(|(a, b)| a != b)
        .unwrap_or(is.len().min(should_be.len()));
    let differing = is.iter().zip(should_be).filter(|(a, b)| a != b).count();
    let show = |bytes: &[u8]| {
        format!(
            "{:02x?}",
            &bytes[at.min(bytes.len())..bytes.len().min(at + 8)]
        )
    };
    ensure!(
        false,
        "differs at byte {at} ({at:#x}) of {}: {} instead of {}; {differing} bytes differ",
        should_be.len(),
        show(is),
        show(should_be)
    );
    Ok(())
}

/// `len` random bytes; other ones for another `seed`. Copied from a pool, for emulated machines
/// make random numbers slowly.
pub fn noise(seed: usize, len: usize) -> &'static [u8] {
    const POOL: usize = 4 << 20;
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let pool = BYTES.get_or_init(|| {
        let mut rng = fastrand::Rng::with_seed(0x7562_6421);
        (0..POOL / 8)
            .flat_map(|_| rng.u64(..).to_ne_bytes())
            .collect()
    });
    let start = seed % (POOL - len);
    &pool[start..start + len]
}
