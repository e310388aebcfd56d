// SPDX-License-Identifier: MIT OR Apache-2.0
//! The target: a device whose clusters are anywhere in the two halves of a backing.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use ubd_bpf::channel::{Backing as Io, Handler, Op, Request, Step};
use ubd_bpf::cluster::{ClusterMap, Content, Next, Options, Place, Progress};
use ubd_bpf::control::Slot;
use ubd_bpf::fastpath::{Name, Source};
use ubd_bpf::target::{Backing, Geometry, Nature, OpenOptions, Target};
use ubd_bpf::{Error, Kind, Result};

/// The device, and the map of where its clusters are.
pub struct Moving {
    pub backing: Backing,
    pub map: ClusterMap,
    geometry: Geometry,
    /// Clusters of each half, which is a slot.
    half: u64,
}

impl Moving {
    /// Shows `path`, or its first `size_limit` bytes, but for the last eighth: that is room to
    /// move in.
    pub fn open(
        path: PathBuf,
        size_limit: Option<u64>,
        name: Name,
        cluster_bytes: u64,
    ) -> Result<Self> {
        let backing = Backing::open(&OpenOptions {
            path,
            offset: 0,
            size_limit,
            block: None,
            read_only: false,
            direct: Some(true),
        })?;
        let size = backing.geometry.size / 2;
        let half = size.checked_div(cluster_bytes).unwrap_or(0);
        // With fewer there is no eighth to move in.
        if half < 4 {
            let text =
                "failed to cut the file into clusters: it takes eight at least, and their size";
            return Err(Error::new(Kind::Usage, text));
        }
        let clusters = u32::try_from(2 * half - half / 4)
            .map_err(|_| Error::new(Kind::Usage, "failed to count the clusters: too many"))?;
        let options = Options {
            name,
            program: Source::cluster(),
            clusters,
            cluster_bytes,
        };
        let first = |cluster| Place::new((cluster / half) as u32, cluster % half);
        first(2 * half - 1)?; // so that all fit, and none of those below is unmapped
        let map = ClusterMap::load(&options, |cluster| {
            first(cluster.into()).map_or(Content::Unmapped, Content::writable)
        })?;
        let geometry = Geometry {
            size: u64::from(clusters) * cluster_bytes,
            discard: Some(4096),
            write_zeroes: true,
            ..backing.geometry.clone()
        };
        Ok(Moving {
            backing,
            map,
            geometry,
            half,
        })
    }

    /// The places where no cluster is at the start.
    pub fn spare(&self) -> Vec<Place> {
        (u64::from(self.map.clusters())..2 * self.half)
            .filter_map(|place| Place::new((place / self.half) as u32, place % self.half).ok())
            .collect()
    }

    /// Byte of the backing where `place` begins.
    pub fn byte(&self, place: Place) -> u64 {
        (u64::from(place.slot()) * self.half + place.cluster()) * self.map.cluster_bytes()
    }
}

impl Target for Moving {
    fn name(&self) -> &'static str {
        "relocate"
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn members(&self) -> Vec<String> {
        vec![self.backing.path.display().to_string()]
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.backing.file.as_fd()]
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        let sectors = (self.half * self.map.cluster_bytes()) >> 9;
        let slot = |number| Slot {
            file: self.backing.file.as_fd(),
            write: true,
            direct: self.backing.nature == Nature::File,
            offset: u64::from(number) * sectors,
            sectors,
            number: Some(number),
        };
        vec![slot(0), slot(1)]
    }

    fn handler(&self, depth: u16) -> Box<dyn Handler + '_> {
        Box::new(Declined {
            target: self,
            work: (0..depth).map(|_| Progress::default()).collect(),
        })
    }
}

/// Serves what the program declines: I/O to clusters that are locked, discards, write-zeroes.
struct Declined<'a> {
    target: &'a Moving,
    /// For each tag.
    work: Vec<Progress<'a>>,
}

impl Declined<'_> {
    fn step(&mut self, req: &Request, next: Next) -> Step {
        let (piece, buf, content) = match next {
            Next::Piece {
                piece,
                buf,
                content,
            } => (piece, buf, content),
            Next::Wait(ticket) => return Step::Wait(ticket),
            Next::Done(res) => return Step::Done(res),
        };
        let Some(place) = content.place() else {
            // No cluster of this map is ever without a place.
            let failed = self.work[usize::from(req.tag)].fail(Errno::EIO);
            return self.step(req, failed);
        };
        let at = self.target.byte(place) + piece.within;
        Step::Submit(match req.op {
            Op::Read => Io::Read { file: 0, at, buf },
            // Of discards and write-zeroes too: `start` has cleared the buffer.
            _ => Io::Write {
                file: 0,
                at,
                buf,
                dsync: req.fua,
            },
        })
    }
}

impl Handler for Declined<'_> {
    fn start(&mut self, req: &Request, buf: &mut [u8]) -> Step {
        match req.op {
            Op::Read | Op::Write => {}
            Op::Discard | Op::WriteZeroes => buf.fill(0),
            Op::Flush => return Step::Submit(Io::Sync { file: 0 }),
            Op::Other(_) => return Step::Done(Err(Errno::EOPNOTSUPP)),
        }
        let work = &mut self.work[usize::from(req.tag)];
        let next = work.begin(&self.target.map, req, buf.len());
        self.step(req, next)
    }

    fn resume(&mut self, req: &Request, buf: &mut [u8], res: Result<u32, Errno>) -> Step {
        if req.op == Op::Flush {
            return Step::Done(res);
        }
        let work = &mut self.work[usize::from(req.tag)];
        let next = work.resume(&self.target.map, req, buf.len(), res);
        self.step(req, next)
    }
}
