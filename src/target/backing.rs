// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening a file or block device to stand behind a device.

use super::extent::Extent;
use super::{check_block_size, Geometry, Identity};
use crate::error::{Context, Error, Kind, Result};
use crate::sysfs;
use std::fs::{File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);
nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
nix::ioctl_read_bad!(blkpbszget, 0x127b, libc::c_uint);
nix::ioctl_read!(blkgetsize64, 0x12, 114, libc::size_t);

/// What sort of file it is; discards differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// A regular file.
    File,
    /// A block device.
    Block,
}

/// How to open a backing; sizes are in bytes.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub path: PathBuf,
    /// Start of the window.
    pub offset: u64,
    /// Length of the window, at most; `None` reaches to the end.
    pub size_limit: Option<u64>,
    /// The device's logical block; `None` takes the smallest that fits.
    pub block: Option<u64>,
    pub read_only: bool,
    /// Bypass the page cache; `None`: for block devices only.
    pub direct: Option<bool>,
}

/// An open file or block device and the window of it that is shown.
#[derive(Debug)]
pub struct Backing {
    /// Absolute, for people.
    pub path: PathBuf,
    pub file: File,
    pub nature: Nature,
    /// The page cache is bypassed.
    pub direct: bool,
    /// First byte of the window.
    pub offset: u64,
    /// Of the window.
    pub geometry: Geometry,
    /// To know it again.
    pub identity: Identity,
    /// Bytes from the start of the window to the end of the file or device.
    pub room: u64,
    extent: Extent,
}

impl Backing {
    /// Opens the backing and works out the geometry of its window.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the window or the block size does not fit.
    pub fn open(opts: &OpenOptions) -> Result<Self> {
        let path = std::path::absolute(&opts.path)
            .context(|| format!("failed to find `{}`", opts.path.display()))?;
        let shown = path.display();
        let meta = std::fs::metadata(&path).context(|| format!("failed to find `{shown}`"))?;
        let nature = if meta.file_type().is_block_device() {
            Nature::Block
        } else if meta.is_file() {
            Nature::File
        } else {
            return usage(format!(
                "`{shown}` is neither a regular file nor a block device"
            ));
        };
        // Buffered access beside bios that the fast path sends to the same
        // device would read what the page cache remembers.
        let direct = match (nature, opts.direct) {
            (Nature::Block, Some(false)) => {
                return usage(format!(
                    "`{shown}` is a block device, which is always used with direct I/O, \
                     for the page cache would go stale beside the fast path; leave out --direct-io=off"
                ))
            }
            (Nature::Block, _) => true,
            (Nature::File, direct) => direct.unwrap_or(false),
        };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(!opts.read_only)
            .custom_flags(if direct { libc::O_DIRECT } else { 0 })
            .open(&path)
            .map_err(|err| match err.raw_os_error() {
                Some(libc::EINVAL) if direct => Error::os(
                    format!(
                        "`{shown}` lies on a file system without direct I/O; leave out --direct-io"
                    ),
                    err,
                ),
                Some(libc::EROFS | libc::EACCES | libc::EPERM) if !opts.read_only => Error::os(
                    format!("failed to open `{shown}` for writing; -r makes a read-only device"),
                    err,
                ),
                _ => Error::os(format!("failed to open `{shown}`"), err),
            })?;
        // Of what was opened, whatever the path leads to by now.
        let meta = file
            .metadata()
            .context(|| format!("failed to look at `{shown}`"))?;
        let limits = match nature {
            Nature::Block => Limits::of_device(&file, &meta)?,
            Nature::File => Limits::of_file(&file, &meta, direct)?,
        };
        if limits.read_only && !opts.read_only {
            return usage(format!(
                "`{shown}` is read-only; -r makes a read-only device"
            ));
        }
        let geometry = limits.window(opts).map_err(|why| {
            Error::new(
                Kind::Usage,
                format!("`{shown}` cannot stand behind a device: {why}"),
            )
        })?;
        let shows_all = opts.size_limit.is_none();
        if shows_all && opts.offset + geometry.size != limits.size {
            log::warn!(
                "`{shown}` does not end on a sector; what is past the last one is not shown"
            );
        }
        Ok(Backing {
            file,
            nature,
            direct,
            offset: opts.offset,
            identity: Identity::of(nature, &meta),
            room: limits.size.saturating_sub(opts.offset),
            geometry,
            extent: Extent::of(nature, &meta),
            path: path.clone(),
        })
    }

    /// Whether the windows share bytes.
    pub fn overlaps(&self, other: &Backing) -> bool {
        let window = |backing: &Backing| backing.offset..backing.offset + backing.geometry.size;
        self.extent
            .overlaps(window(self), &other.extent, window(other))
    }
}

/// What a whole file or block device can do; all in bytes.
#[derive(Debug, Clone)]
struct Limits {
    size: u64,
    /// The smallest unit of I/O.
    logical_block: u64,
    physical_block: u64,
    io_min: u64,
    /// Of the address of memory.
    memory_align: u64,
    read_only: bool,
    rotational: bool,
    discard: Option<u64>,
}

impl Limits {
    fn of_device(file: &File, meta: &Metadata) -> Result<Self> {
        let fd = file.as_raw_fd();
        let (mut read_only, mut logical, mut physical, mut size) = (0, 0, 0, 0);
        // SAFETY: each ioctl writes one value of its pointer's type.
        unsafe {
            blkroget(fd, &mut read_only)
                .and_then(|_| blksszget(fd, &mut logical))
                .and_then(|_| blkpbszget(fd, &mut physical))
                .and_then(|_| blkgetsize64(fd, &mut size))
        }
        .context(|| "failed to ask the block device for its limits")?;
        let attr = |name| sysfs::queue_attr(meta.rdev(), name).unwrap_or(0);
        Ok(Limits {
            size: size as u64,
            logical_block: logical as u64,
            physical_block: physical.into(),
            io_min: attr("minimum_io_size"),
            // The attribute is a mask.
            memory_align: attr("dma_alignment") + 1,
            read_only: read_only != 0,
            rotational: attr("rotational") != 0,
            discard: (attr("discard_max_bytes") > 0).then(|| attr("discard_granularity")),
        })
    }

    fn of_file(file: &File, meta: &Metadata, direct: bool) -> Result<Self> {
        // st_blksize is a hint for copying, huge on network file systems.
        let unit = match meta.blksize() {
            unit if unit.is_power_of_two() => unit.clamp(512, 4096),
            _ => 4096,
        };
        let (logical_block, memory_align) = match direct {
            true => direct_alignment(file)?,
            false => (512, MEMORY_ALIGN),
        };
        Ok(Limits {
            size: meta.len(),
            logical_block,
            physical_block: unit,
            io_min: unit,
            memory_align,
            read_only: false,
            rotational: sysfs::queue_attr(meta.dev(), "rotational").unwrap_or(0) != 0,
            discard: Some(unit),
        })
    }

    /// The geometry of the window that `opts` asks for, or why there is none.
    fn window(&self, opts: &OpenOptions) -> Result<Geometry, String> {
        let block = match opts.block {
            Some(block) => block,
            None => self.logical_block.max(512),
        };
        if block < self.logical_block {
            return Err(format!(
                "its smallest unit of I/O is {} bytes, more than the sector size {block}",
                self.logical_block
            ));
        }
        let logical_block = check_block_size(block).map_err(|err| err.to_string())?;
        for (what, bytes) in [
            ("offset", Some(opts.offset)),
            ("size limit", opts.size_limit),
        ] {
            if bytes.is_some_and(|bytes| bytes % block != 0) {
                return Err(format!(
                    "the {what} is not a multiple of the sector size {block}"
                ));
            }
        }
        let rest = self.size.saturating_sub(opts.offset);
        let size = rest.min(opts.size_limit.unwrap_or(u64::MAX)) / block * block;
        if size == 0 {
            return Err(format!(
                "its window of {} bytes is smaller than a sector of {block}",
                rest.min(opts.size_limit.unwrap_or(u64::MAX))
            ));
        }
        let physical_block = shift_fit(self.physical_block, block);
        let io_min = shift_fit(self.io_min, physical_block.into());
        Ok(Geometry {
            size,
            logical_block,
            physical_block,
            io_min,
            io_opt: Some(io_min),
            memory_align: shift_fit(self.memory_align, MEMORY_ALIGN),
            chunk: None,
            read_only: opts.read_only,
            rotational: self.rotational,
            write_cache: true,
            discard: self.discard.map(|unit| shift_fit(unit, block)),
            write_zeroes: true,
        })
    }
}

/// `bytes` as a power of two that is not below `least`.
fn shift_fit(bytes: u64, least: u64) -> u32 {
    let fit = if bytes.is_power_of_two() {
        bytes.max(least)
    } else {
        least
    };
    u32::try_from(fit).unwrap_or(least as u32)
}

/// What the pages of a file take: the least that a disk asks for.
const MEMORY_ALIGN: u64 = 4;

/// The alignment that direct I/O on the file needs: of its place, and of the memory.
fn direct_alignment(file: &File) -> Result<(u64, u64)> {
    // SAFETY: all members are integers, for which zero is a value.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the open file; `stat` has
    // room for the answer.
    let res = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut stat,
        )
    };
    nix::errno::Errno::result(res).context(|| "failed to ask for the alignment of direct I/O")?;
    // Where the file system does not say, a wrong guess fails at the first I/O.
    let said = stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align != 0;
    Ok(if said {
        (
            stat.stx_dio_offset_align.into(),
            stat.stx_dio_mem_align.into(),
        )
    } else {
        (512, 512)
    })
}

fn usage<T>(text: String) -> Result<T> {
    Err(Error::new(Kind::Usage, text))
}

#[cfg(test)]
mod tests;
