// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scratch disks and file systems to back devices with. All live in RAM and are gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::io::{discard, open_direct, zero_out};
use super::{mount::unmount, sh};

/// Sizes of a [`RamDisk`] and of the file system in [`Files`].
pub const RAM_DISK_MIB: u64 = 128;
const RAM_DISKS: usize = 6;

static TAKEN: Mutex<[bool; RAM_DISKS]> = Mutex::new([false; RAM_DISKS]);

/// A RAM disk (brd) of 128 MiB, all zeroes, logical blocks of 512 bytes.
pub struct RamDisk(usize);

impl RamDisk {
    pub fn new() -> Result<RamDisk> {
        if !Path::new("/dev/ram0").exists() {
            let kib = RAM_DISK_MIB << 10;
            sh(format!(
                "modprobe brd rd_nr={RAM_DISKS} rd_size={kib}; settle"
            ))?;
        }
        let mut taken = TAKEN.lock().unwrap_or_else(|err| err.into_inner());
        let free = taken
            .iter()
            .position(|taken| !taken)
            .context("no RAM disk is free")?;
        taken[free] = true;
        Ok(RamDisk(free))
    }

    pub fn node(&self) -> String {
        format!("/dev/ram{}", self.0)
    }

    /// The name in `/sys/block`.
    pub fn name(&self) -> String {
        format!("ram{}", self.0)
    }
}

impl Drop for RamDisk {
    fn drop(&mut self) {
        // brd gives its pages back only when told to; without discard, zero them.
        let bytes = RAM_DISK_MIB << 20;
        if let Ok(disk) = open_direct(self.node(), true) {
            let _ = discard(&disk, 0, bytes).or_else(|_| zero_out(&disk, 0, bytes));
        }
        TAKEN.lock().unwrap_or_else(|err| err.into_inner())[self.0] = false;
    }
}

/// A null_blk disk that keeps its data.
pub struct NullDisk {
    dir: PathBuf,
    name: String,
}

impl NullDisk {
    /// `mib` MiB in logical blocks of `block` bytes; `settings` are more attributes of null_blk's
    /// configfs, such as `("discard", "1")` or, for a volatile cache, `("cache_size", "1")`.
    ///
    /// In blocks larger than 512 bytes null_blk overruns its pages when a buffer is not aligned to
    /// them, with no help from us: use a [`LoopDisk`] with `--sector-size` then.
    pub fn new(mib: u64, block: u32, settings: &[(&str, &str)]) -> Result<NullDisk> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sh("modprobe null_blk nr_devices=0")?;
        let name = format!("ubdtest{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new("/sys/kernel/config/nullb").join(&name);
        fs::create_dir(&dir).with_context(|| format!("failed to make `{}`", dir.display()))?;
        let mut disk = NullDisk { dir, name };
        let (mib, block) = (mib.to_string(), block.to_string());
        let basic = [
            ("size", mib.as_str()),
            ("blocksize", &block),
            ("memory_backed", "1"),
            ("submit_queues", "2"),
        ];
        for (attr, value) in basic.iter().chain(settings).chain(&[("power", "1")]) {
            disk.set(attr, value)?;
        }
        // Named after the directory since 6.4, before that after its index.
        if !Path::new("/sys/block").join(&disk.name).exists() {
            let index = fs::read_to_string(disk.dir.join("index"))?;
            disk.name = format!("nullb{}", index.trim_end());
        }
        sh("settle")?;
        Ok(disk)
    }

    /// Writes an attribute of null_blk's configfs.
    pub fn set(&self, attr: &str, value: &str) -> Result<()> {
        fs::write(self.dir.join(attr), value)
            .with_context(|| format!("failed to set null_blk's `{attr}` to `{value}`"))
    }

    pub fn node(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// The name in `/sys/block`.
    pub fn name(&self) -> String {
        self.name.clone()
    }
}

impl Drop for NullDisk {
    fn drop(&mut self) {
        let _ = self.set("power", "0");
        let _ = fs::remove_dir(&self.dir);
    }
}

/// A loop device of the kernel over a file.
pub struct LoopDisk(String);

impl LoopDisk {
    /// `options` are losetup's.
    pub fn new(file: &Path, options: &str) -> Result<LoopDisk> {
        sh("modprobe loop")?;
        Ok(LoopDisk(sh(format!(
            "losetup -f --show {options} {}",
            file.display()
        ))?))
    }

    pub fn node(&self) -> String {
        self.0.clone()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = sh(format!("losetup -d {}", self.0));
    }
}

/// A file system on a RAM disk of its own, mounted, to hold backing files.
pub struct Files {
    dir: PathBuf,
    disk: RamDisk,
}

impl Files {
    pub fn ext4() -> Result<Files> {
        Files::new("mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=1 -J size=4")
    }

    /// `mkfs` is a command that ends with the options; the node follows.
    pub fn new(mkfs: &str) -> Result<Files> {
        let disk = RamDisk::new()?;
        let dir = PathBuf::from(format!("/mnt/{}", disk.name()));
        sh(format!(
            "{mkfs} {0}; mkdir -p {1}; mount {0} {1}",
            disk.node(),
            dir.display()
        ))?;
        Ok(Files { dir, disk })
    }

    /// The directory where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk that it lives on.
    pub fn disk(&self) -> &RamDisk {
        &self.disk
    }

    /// A new file of `bytes` bytes, all a hole.
    pub fn file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let file = fs::File::create_new(&path)
            .with_context(|| format!("failed to make `{}`", path.display()))?;
        file.set_len(bytes)?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What fails here is found among the leftovers.
        let _ = unmount(&self.dir);
    }
}
