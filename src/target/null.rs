// SPDX-License-Identifier: MIT OR Apache-2.0
//! The null target: reads zeroes, forgets writes.

use super::{Geometry, Spec, Target, TargetKind};
use crate::channel::{Handler, Op, Request, Step};
use crate::error::{Error, Kind, Result};
use nix::errno::Errno;

/// A device of zeroes, for measuring what the way to a daemon costs.
#[derive(Debug)]
pub struct Null {
    geometry: Geometry,
}

impl Null {
    /// A device of `size` bytes in blocks of `block` bytes.
    pub fn new(size: u64, block: u32) -> Result<Self> {
        if size == 0 || size % u64::from(block) != 0 {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "a size of {size} bytes is not a positive multiple of the sector size {block}"
                ),
            ));
        }
        Ok(Null {
            geometry: Geometry {
                size,
                logical_block: block,
                physical_block: block.max(4096),
                io_min: block.max(4096),
                io_opt: Some(block.max(4096)),
                memory_align: 4,
                chunk: None,
                read_only: false,
                rotational: false,
                write_cache: false,
                discard: Some(block),
                // A promise about what is read back. A program that maps this device
                // elsewhere would have it broken for what it declines.
                write_zeroes: false,
            },
        })
    }
}

impl Target for Null {
    fn name(&self) -> &'static str {
        TargetKind::Null.name()
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn spec(&self) -> Option<Spec> {
        Some(Spec {
            kind: TargetKind::Null,
            size: self.geometry.size,
            block: self.geometry.logical_block,
            read_only: false,
            chunk: None,
            members: Vec::new(),
        })
    }

    fn handler(&self, _depth: u16) -> Box<dyn Handler + '_> {
        Box::new(Forgetful)
    }
}

struct Forgetful;

impl Handler for Forgetful {
    fn start(&mut self, req: &Request, buf: &mut [u8]) -> Step {
        let len = req.len() as usize;
        Step::Done(match req.op {
            Op::Read => {
                // The buffer may hold what was written with this tag before.
                buf[..len].fill(0);
                Ok(len as u32)
            }
            Op::Write => Ok(len as u32),
            Op::Flush | Op::Discard | Op::WriteZeroes => Ok(0),
            Op::Other(_) => Err(Errno::EOPNOTSUPP),
        })
    }

    fn resume(&mut self, _: &Request, _: &mut [u8], _: Result<u32, Errno>) -> Step {
        // It submits no operations, so none can end.
        Step::Done(Err(Errno::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_zeroes_whatever_the_buffer_held() {
        let mut buf = vec![7; 8192];
        let req = Request {
            tag: 0,
            op: Op::Read,
            fua: false,
            no_unmap: false,
            sector: 8,
            sectors: 8,
        };
        assert_eq!(Forgetful.start(&req, &mut buf), Step::Done(Ok(4096)));
        assert!(buf[..4096].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_size_is_a_multiple_of_the_sector_size() {
        assert!(Null::new(1 << 20, 512).is_ok());
        assert!(Null::new(0, 512).is_err());
        assert!(Null::new(4096 + 512, 4096).is_err());
    }
}
