// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the data of a request gets to its handler, and the handler's to the request.

use super::{CharNode, Op, Request};
use crate::uapi::ublk;
use nix::errno::Errno;
use std::os::unix::fs::FileExt;

/// The mode of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// The driver copies it to and from the tag's buffer.
    Driver,
    /// The queue does, by reading and writing the character node.
    Queue,
    /// It stays in the pages of whoever has issued the request. While the request lasts they are a
    /// registered buffer of the ring, which has the tag's number.
    Stays,
}

impl Data {
    /// That of a device with these `F_*` of [`ublk`].
    pub(super) fn of(flags: u64) -> Self {
        if flags & ublk::F_AUTO_BUF_REG != 0 {
            Data::Stays
        } else if flags & ublk::F_USER_COPY != 0 {
            Data::Queue
        } else {
            Data::Driver
        }
    }

    /// Whether operations of `req` are on the pages of whoever has issued it.
    pub(super) fn is_registered(self, req: &Request) -> bool {
        self == Data::Stays && has_data(req)
    }

    /// Fetches the data of a write, before the handler sees it.
    pub(super) fn fetch(
        self,
        node: &CharNode,
        queue: u16,
        req: &Request,
        buf: &mut [u8],
    ) -> Result<(), Errno> {
        if self != Data::Queue || req.op != Op::Write {
            return Ok(());
        }
        let data = &mut buf[..req.len() as usize];
        let at = position(queue, req.tag);
        node.file().read_exact_at(data, at).map_err(errno)
    }

    /// Hands over the data of a read that the handler has answered.
    pub(super) fn deliver(
        self,
        node: &CharNode,
        queue: u16,
        req: &Request,
        buf: &[u8],
        res: Result<u32, Errno>,
    ) -> Result<u32, Errno> {
        if self != Data::Queue || req.op != Op::Read {
            return res;
        }
        let bytes = res?;
        let at = position(queue, req.tag);
        node.file()
            .write_all_at(&buf[..bytes as usize], at)
            .map_err(errno)?;
        Ok(bytes)
    }
}

/// Only reads and writes have any.
fn has_data(req: &Request) -> bool {
    matches!(req.op, Op::Read | Op::Write)
}

/// Where the data of a tag's request begin in the character node.
fn position(queue: u16, tag: u16) -> u64 {
    let tags = u64::from(queue) << ublk::TAG_BITS | u64::from(tag);
    ublk::IO_BUF_OFFSET + (tags << ublk::IO_BUF_BITS)
}

/// An end before its time has none of its own.
fn errno(err: std::io::Error) -> Errno {
    err.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_a_place_of_its_own() {
        assert_eq!(position(0, 0), 0x8000_0000);
        let largest = u64::from(ublk::MAX_IO_BUF_BYTES);
        assert_eq!(position(0, 1), 0x8000_0000 + largest);
        assert_eq!(position(1, 0), 0x8000_0000 + (largest << 16));
    }
}
