// SPDX-License-Identifier: MIT OR Apache-2.0
//! Targets: what the bytes of a device are.
//!
//! A target gives its [`Geometry`], the files that it works on, and a
//! [`Handler`] for each queue. It never touches a ring: its handlers answer
//! with operations, and the queue runs them.

mod backing;
mod extent;
mod layout;
mod mapping;
mod members;
mod null;
mod spec;

pub use backing::{Backing, Nature, OpenOptions};
pub use extent::is_read_only;
pub use layout::{Layout, Piece};
pub use mapping::Mapping;
pub use members::Members;
pub use null::Null;
pub use spec::{Identity, Member, Spec, TargetKind};

use crate::channel::Handler;
use crate::control::Slot;
use crate::error::{Error, Kind, Result};
use crate::uapi::{ublk, when};
use std::os::fd::BorrowedFd;

/// A kind of device, set up and ready to serve.
pub trait Target: Send + Sync {
    /// The name of the kind, as `ubd add -t` takes it.
    fn name(&self) -> &'static str;

    /// Size and limits.
    fn geometry(&self) -> &Geometry;

    /// The files and block devices behind the device, for people.
    fn members(&self) -> Vec<String> {
        Vec::new()
    }

    /// The files that the handlers' operations name, by their place.
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// The slots for the fast path, from number 0.
    fn slots(&self) -> Vec<Slot<'_>> {
        Vec::new()
    }

    /// The program that maps as the target itself does.
    fn mapping(&self) -> Mapping {
        Mapping::linear()
    }

    /// What it takes to make this target again, if that can be said in words.
    fn spec(&self) -> Option<Spec> {
        None
    }

    /// Whether its handlers never look at the data of reads and writes, which then need not be in
    /// the daemon's memory.
    fn is_blind(&self) -> bool {
        false
    }

    /// A handler for a queue of `depth` tags. The device may be resized while it serves: a request
    /// past the size of the target as it was made is a good one.
    fn handler(&self, depth: u16) -> Box<dyn Handler + '_>;

    /// The same, of one that lets the driver do the I/O on the slots; `None`: the target cannot.
    fn forwarder(&self, _depth: u16) -> Option<Box<dyn Handler + '_>> {
        None
    }
}

/// Size and limits of a device, in bytes where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Size; a multiple of `logical_block`.
    pub size: u64,
    /// A power of two from 512 to 4096.
    pub logical_block: u32,
    /// A power of two, at least `logical_block`.
    pub physical_block: u32,
    /// Preferred granularity of small I/O: a power of two.
    pub io_min: u32,
    /// Preferred size of large I/O, if there is one: a power of two.
    pub io_opt: Option<u32>,
    /// Where memory begins into which the backing can read without a copy: at a multiple of this, a
    /// power of two of at most a page.
    pub memory_align: u32,
    /// Requests do not cross multiples of this power of two.
    pub chunk: Option<u32>,
    pub read_only: bool,
    pub rotational: bool,
    /// Written data may be lost at a power failure until a flush.
    pub write_cache: bool,
    /// Granularity of discards; `None`: the target cannot discard.
    pub discard: Option<u32>,
    /// The target can write zeroes without being sent any.
    pub write_zeroes: bool,
}

/// The longest discard or run of zeroes in one request: 1 GiB, so that one
/// request cannot hold up a queue's flushes for minutes.
const MAX_RANGE_SECTORS: u32 = 1 << 21;

impl Geometry {
    /// The parameters for the driver, with requests of at most `max_io` bytes.
    pub fn params(&self, max_io: u32) -> ublk::Params {
        let mut params = ublk::Params::unset();
        params.types = ublk::PARAM_TYPE_BASIC;
        params.basic = ublk::ParamBasic {
            attrs: when(self.read_only, ublk::ATTR_READ_ONLY)
                | when(self.rotational, ublk::ATTR_ROTATIONAL)
                | when(self.write_cache, ublk::ATTR_VOLATILE_CACHE | ublk::ATTR_FUA),
            logical_bs_shift: self.logical_block.trailing_zeros() as u8,
            physical_bs_shift: self.physical_block.trailing_zeros() as u8,
            io_min_shift: self.io_min.trailing_zeros() as u8,
            // An order of 0 is less than a block, and none to the kernel.
            io_opt_shift: self.io_opt.map_or(0, u32::trailing_zeros) as u8,
            max_sectors: max_io >> 9,
            chunk_sectors: self.chunk.unwrap_or(0) >> 9,
            dev_sectors: self.size >> 9,
            ..params.basic
        };
        let writable = !self.read_only;
        if writable && (self.discard.is_some() || self.write_zeroes) {
            params.types |= ublk::PARAM_TYPE_DISCARD;
            params.discard = ublk::ParamDiscard {
                discard_granularity: self.discard.unwrap_or(self.logical_block),
                max_discard_sectors: when(self.discard.is_some(), MAX_RANGE_SECTORS),
                max_write_zeroes_sectors: when(self.write_zeroes, MAX_RANGE_SECTORS),
                max_discard_segments: u16::from(self.discard.is_some()),
                ..params.discard
            };
        }
        params
    }
}

/// Refuses what is not a block size that the kernel takes.
pub fn check_block_size(bytes: u64) -> Result<u32> {
    match u32::try_from(bytes) {
        Ok(size @ 512..=4096) if size.is_power_of_two() => Ok(size),
        _ => Err(Error::new(
            Kind::Usage,
            format!("`{bytes}` is not a sector size; it is 512, 1024, 2048 or 4096"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            size: 1 << 20,
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: Some(8192),
            memory_align: 512,
            chunk: Some(4096),
            read_only: false,
            rotational: false,
            write_cache: true,
            discard: Some(4096),
            write_zeroes: true,
        }
    }

    #[test]
    fn parameters_say_what_the_geometry_says() {
        let params = geometry().params(512 << 10);
        assert_eq!(
            params.types,
            ublk::PARAM_TYPE_BASIC | ublk::PARAM_TYPE_DISCARD
        );
        assert_eq!(
            params.basic.attrs,
            ublk::ATTR_VOLATILE_CACHE | ublk::ATTR_FUA
        );
        assert_eq!(
            (
                params.basic.logical_bs_shift,
                params.basic.physical_bs_shift
            ),
            (9, 12)
        );
        assert_eq!(
            (params.basic.max_sectors, params.basic.dev_sectors),
            (1024, 2048)
        );
        assert_eq!(
            (params.basic.io_opt_shift, params.basic.chunk_sectors),
            (13, 8)
        );
        assert_eq!(params.discard.max_discard_segments, 1);
    }

    #[test]
    fn a_read_only_device_cannot_discard() {
        let params = Geometry {
            read_only: true,
            ..geometry()
        }
        .params(4096);
        assert_eq!(params.types, ublk::PARAM_TYPE_BASIC);
        assert_ne!(params.basic.attrs & ublk::ATTR_READ_ONLY, 0);
    }

    #[test]
    fn zeroes_without_discards_have_no_discard_segments() {
        let params = Geometry {
            discard: None,
            ..geometry()
        }
        .params(4096);
        assert_eq!(params.discard.max_discard_sectors, 0);
        assert_eq!(params.discard.max_discard_segments, 0);
        assert_ne!(params.discard.max_write_zeroes_sectors, 0);
    }

    #[test]
    fn block_sizes() {
        assert_eq!(check_block_size(4096).unwrap(), 4096);
        for bad in [0, 256, 1000, 8192, 1 << 40] {
            assert_eq!(check_block_size(bad).unwrap_err().kind(), Kind::Usage);
        }
    }
}
