// SPDX-License-Identifier: MIT OR Apache-2.0
//! What lies between a device and the disks whose writes are logged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Result};
use ubd_bpf::cluster::{ClusterMap, Content, Options, Place};
use ubd_bpf::control::Control;
use ubd_bpf::fastpath::Source;
use ubd_bpf::uapi::ublk;

use crate::forward::server::{Device, Setup};
use crate::support::io::open_direct;
use crate::support::{Prog, Ubd, Way};
use crate::targets::data::Unload;

/// Where the device's sectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// On one disk, at the same place.
    Linear,
    /// On two disks in turn.
    Stripe,
    /// On two disks, in clusters all over the place.
    Clusters,
}

const CHUNK: u64 = 16; // sectors
const CLUSTER: u64 = 128; // sectors

impl Shape {
    pub fn members(self) -> usize {
        match self {
            Shape::Linear => 1,
            Shape::Stripe | Shape::Clusters => 2,
        }
    }

    /// Where sector `at` of the device is, on disks of `len` sectors: disk and sector.
    pub fn find(self, at: u64, len: u64) -> (usize, u64) {
        match self {
            Shape::Linear => (0, at),
            Shape::Stripe => {
                let (chunk, within) = (at / CHUNK, at % CHUNK);
                ((chunk % 2) as usize, chunk / 2 * CHUNK + within)
            }
            Shape::Clusters => {
                let (half, place) = place(at / CLUSTER, len / CLUSTER);
                (half as usize, place * CLUSTER + at % CLUSTER)
            }
        }
    }

    /// Which sector of the device is at each sector of disk `member`, of `len` sectors.
    pub fn shown(self, member: usize, len: u64) -> Vec<u64> {
        if self == Shape::Linear {
            return (0..len).collect();
        }
        let mut shown = vec![0; len as usize];
        for at in 0..len * self.members() as u64 {
            let (on, sector) = self.find(at, len);
            if on == member {
                shown[sector as usize] = at;
            }
        }
        shown
    }

    /// A device over `nodes`, of `len` sectors each.
    pub fn device(self, way: Way, nodes: &[String], len: u64) -> Result<Held> {
        let mut prog = None;
        let mut more = match way {
            Way::Mapped => "--bpf-fastpath".to_owned(),
            Way::Forwarded => "--forward".to_owned(),
            Way::Declined | Way::Tracked => String::new(),
        };
        match self {
            Shape::Clusters => return clusters(way, nodes, len),
            Shape::Linear => {
                // A program that leaves everything to the daemon, or that has its bios counted.
                let (name, set): (_, &[_]) = match way {
                    Way::Tracked => ("linear_tracked", &[]),
                    _ => ("decline_random", &["percent=100"]),
                };
                if more.is_empty() {
                    prog = Some(Prog::load(name, set)?);
                    more = format!("--bpf-fastpath={name}");
                }
                more += &format!(" -t loop -f {}", nodes[0]);
            }
            Shape::Stripe => {
                let bytes = CHUNK * 512;
                more += &format!(" -t stripe --chunk {bytes} -f {} -f {}", nodes[0], nodes[1]);
            }
        }
        let ubd = Ubd::add(&[&more, "-q 2"])?;
        Ok(Held {
            way,
            what: What::Tool {
                ubd,
                _prog: prog,
                _unload: (self == Shape::Stripe).then_some(Unload("stripe")),
            },
        })
    }
}

/// The half and the place there of cluster `number`, of twice `half`, which is a power of two.
fn place(number: u64, half: u64) -> (u64, u64) {
    let shuffled = (number * 37 + 11) % (2 * half);
    (shuffled / half, shuffled % half)
}

/// A device whose daemon serves what no program maps by the same map.
fn clusters(way: Way, nodes: &[String], len: u64) -> Result<Held> {
    let half = len / CLUSTER;
    let device = match way {
        Way::Declined => copied(nodes, len)?,
        Way::Mapped | Way::Tracked | Way::Forwarded => forwarded(nodes, len)?,
    };
    let map = match way {
        Way::Mapped | Way::Tracked => {
            let options = Options {
                name: "crash_clusters".parse()?,
                program: Source::cluster(),
                clusters: 2 * half as u32,
                cluster_bytes: CLUSTER * 512,
            };
            let content = |number| {
                let (slot, place) = place(u64::from(number), half);
                Place::new(slot as u32, place).map_or(Content::Unmapped, Content::writable)
            };
            let map = ClusterMap::load(&options, content)?;
            Control::open()?.bind(device.ubd.id(), "crash_clusters", 0)?;
            Some(map)
        }
        Way::Declined | Way::Forwarded => None,
    };
    Ok(Held {
        way: if map.is_some() { Way::Tracked } else { way },
        what: What::Clusters { device, _map: map },
    })
}

/// The daemon forwards each part of a request.
fn forwarded(nodes: &[String], len: u64) -> Result<Device> {
    let paths: Vec<PathBuf> = nodes.iter().map(PathBuf::from).collect();
    let slots: Vec<(&Path, bool)> = paths.iter().map(|path| (path.as_path(), true)).collect();
    Device::start(&Setup::new(&slots, 2 * len), move |event| {
        ensure!(event.result == 0, "refused: {}", event.result);
        if event.op() == ublk::IO_OP_FLUSH {
            return event.answer(0);
        }
        let at = event.desc.start_sector;
        let (slot, sector) = Shape::Clusters.find(at, len);
        let part = left(at).min(event.desc.nr_sectors.into()) as u32;
        event.forward_to((slot as u32, sector), part)
    })
}

/// The daemon has the disks open, and the driver has no slots.
fn copied(nodes: &[String], len: u64) -> Result<Device> {
    let disks: Vec<File> = nodes
        .iter()
        .map(|node| open_direct(node, true))
        .collect::<Result<_>>()?;
    let mut setup = Setup::new(&[], 2 * len);
    setup.params.basic.attrs = ublk::ATTR_VOLATILE_CACHE;
    Device::start(&setup, move |event| {
        ensure!(event.result == 0, "refused: {}", event.result);
        let op = event.op();
        if op == ublk::IO_OP_FLUSH {
            disks.iter().try_for_each(File::sync_data)?;
            return event.answer(0);
        }
        let (start, sectors) = (event.desc.start_sector, u64::from(event.desc.nr_sectors));
        let bytes = (sectors * 512) as usize;
        let mut rest = &mut event.queue.buffer(event.tag)[..bytes];
        let mut at = start;
        while !rest.is_empty() {
            let (disk, sector) = Shape::Clusters.find(at, len);
            let part = left(at).min(start + sectors - at);
            let (here, behind) = rest.split_at_mut((part * 512) as usize);
            match op {
                ublk::IO_OP_READ => disks[disk].read_exact_at(here, sector * 512)?,
                ublk::IO_OP_WRITE => disks[disk].write_all_at(here, sector * 512)?,
                _ => bail!("there should be no operation {op}"),
            }
            (at, rest) = (at + part, behind);
        }
        event.answer(bytes as i32)
    })
}

/// The sectors from `at` to the end of its cluster.
fn left(at: u64) -> u64 {
    CLUSTER - at % CLUSTER
}

// The program is in use as long as the device is there.
enum What {
    Tool {
        ubd: Ubd,
        _prog: Option<Prog>,
        _unload: Option<Unload>,
    },
    Clusters {
        device: Device,
        _map: Option<ClusterMap>,
    },
}

/// The device, and what it lives on.
pub struct Held {
    way: Way,
    what: What,
}

impl Held {
    pub fn tool(ubd: Ubd, way: Way) -> Held {
        let what = What::Tool {
            ubd,
            _prog: None,
            _unload: None,
        };
        Held { way, what }
    }

    pub fn ubd(&self) -> &Ubd {
        match &self.what {
            What::Tool { ubd, .. } => ubd,
            What::Clusters { device, .. } => &device.ubd,
        }
    }

    /// All writes went the way they should have.
    pub fn check_way(&self) -> Result<()> {
        self.way.check(&["write"], &self.ubd().counters()?)
    }

    pub fn del(self) -> Result<()> {
        match self.what {
            // The programs go after it.
            What::Tool {
                ubd,
                _prog,
                _unload,
            } => ubd.del(),
            What::Clusters { device, .. } => device.end(),
        }
    }
}
