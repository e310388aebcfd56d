// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices made of files and block devices: loop shows one, concat puts several
//! one behind the other, stripe deals out chunks to several in turn.

mod forward;
mod queue;

use super::{Backing, Geometry, Layout, Mapping, Member, Nature, Spec, Target, TargetKind};
use crate::channel::Handler;
use crate::control::Slot;
use crate::error::{Error, Kind, Result};
use crate::uapi::ubd::MAX_SLOTS;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

/// Chunks and rows of a stripe, in bytes: up to the largest limit that the driver takes.
const CHUNKS: RangeInclusive<u64> = 4096..=1 << 30;

/// A device that shows its members.
#[derive(Debug)]
pub struct Members {
    kind: TargetKind,
    members: Vec<Backing>,
    layout: Layout,
    geometry: Geometry,
}

impl Members {
    /// Shows one backing as it is.
    pub fn one(backing: Backing) -> Self {
        Members {
            kind: TargetKind::Loop,
            layout: Layout::concat([backing.geometry.size]),
            geometry: backing.geometry.clone(),
            members: vec![backing],
        }
    }

    /// Shows members one behind the other.
    ///
    /// # Errors
    /// [`Kind::Usage`] for too few or too many, for the same bytes twice, and for one that is
    /// smaller than the logical block of all.
    pub fn concat(mut members: Vec<Backing>) -> Result<Self> {
        check_members("concat", &members)?;
        let common = common(&members);
        let block = u64::from(common.logical_block);
        for member in &mut members {
            let len = member.geometry.size / block * block;
            shorten(member, len, || format!("a sector of {block} bytes"))?;
        }
        let layout = Layout::concat(members.iter().map(|member| member.geometry.size));
        Ok(Members {
            kind: TargetKind::Concat,
            geometry: Geometry {
                size: layout.size(),
                ..common
            },
            layout,
            members,
        })
    }

    /// Deals out chunks of `chunk` bytes, a power of two, to the members in turn.
    ///
    /// # Errors
    /// Those of [`Self::concat`]; [`Kind::Usage`] also for a `chunk` that cannot be one.
    pub fn stripe(mut members: Vec<Backing>, chunk: u64) -> Result<Self> {
        let order = check_chunk(chunk)?;
        check_members("stripe", &members)?;
        let common = common(&members);
        // The smallest first: it may be too small for all.
        let mut by_size: Vec<_> = members.iter_mut().collect();
        by_size.sort_by_key(|member| member.geometry.size);
        let len = by_size[0].geometry.size / chunk * chunk;
        for member in by_size {
            shorten(member, len, || format!("a chunk of {chunk} bytes"))?;
        }
        let layout = Layout::Stripe {
            members: members.len() as u32,
            chunk,
            len,
        };
        let row = chunk * members.len() as u64;
        Ok(Members {
            kind: TargetKind::Stripe,
            geometry: Geometry {
                size: layout.size(),
                physical_block: common.physical_block.min(order),
                io_min: order,
                // The driver takes powers of two; no width is better than a wrong one.
                io_opt: (row.is_power_of_two() && CHUNKS.contains(&row)).then_some(row as u32),
                chunk: Some(order),
                ..common
            },
            layout,
            members,
        })
    }

    fn len(&self) -> u32 {
        self.members.len() as u32
    }

    /// First byte of a member's window.
    fn offset(&self, member: u32) -> u64 {
        self.members[member as usize].offset
    }

    fn nature(&self, member: u32) -> Nature {
        self.members[member as usize].nature
    }
}

impl Target for Members {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn members(&self) -> Vec<String> {
        let path = |member: &Backing| member.path.display().to_string();
        self.members.iter().map(path).collect()
    }

    fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.members.iter().map(|m| m.file.as_fd()).collect()
    }

    fn slots(&self) -> Vec<Slot<'_>> {
        let members = (0..).zip(&self.members);
        members
            .map(|(number, member)| Slot {
                file: member.file.as_fd(),
                write: !self.geometry.read_only,
                direct: member.direct && member.nature == Nature::File,
                offset: member.offset >> 9,
                sectors: member.geometry.size >> 9,
                number: Some(number),
            })
            .collect()
    }

    fn mapping(&self) -> Mapping {
        match &self.layout {
            Layout::Concat { .. } if self.len() == 1 => Mapping::linear(),
            Layout::Concat { .. } => {
                Mapping::concat(self.members.iter().map(|member| member.geometry.size))
            }
            Layout::Stripe { members, chunk, .. } => Mapping::stripe(*members, *chunk),
        }
    }

    fn spec(&self) -> Option<Spec> {
        let member = |member: &Backing| Member {
            path: member.path.clone(),
            offset: member.offset,
            len: member.geometry.size,
            direct: member.direct,
            identity: member.identity,
        };
        Some(Spec {
            kind: self.kind,
            size: self.geometry.size,
            block: self.geometry.logical_block,
            read_only: self.geometry.read_only,
            chunk: match &self.layout {
                Layout::Concat { .. } => None,
                Layout::Stripe { chunk, .. } => Some(*chunk),
            },
            members: self.members.iter().map(member).collect(),
        })
    }

    fn is_blind(&self) -> bool {
        true
    }

    fn handler(&self, depth: u16) -> Box<dyn Handler + '_> {
        Box::new(queue::MembersQueue::new(self, depth))
    }

    fn forwarder(&self, depth: u16) -> Option<Box<dyn Handler + '_>> {
        Some(Box::new(forward::Forwarder::new(self, depth)))
    }
}

/// What all members have in common, but for the size.
fn common(members: &[Backing]) -> Geometry {
    let all = || members.iter().map(|member| &member.geometry);
    let largest = |of: fn(&Geometry) -> u32| all().map(of).max().unwrap_or(512);
    // They are powers of two, so the largest suits all.
    let discards: Option<Vec<_>> = all().map(|geometry| geometry.discard).collect();
    Geometry {
        size: 0,
        logical_block: largest(|geometry| geometry.logical_block),
        physical_block: largest(|geometry| geometry.physical_block),
        io_min: largest(|geometry| geometry.io_min),
        io_opt: Some(largest(|geometry| geometry.io_min)),
        memory_align: largest(|geometry| geometry.memory_align),
        chunk: None,
        read_only: all().any(|geometry| geometry.read_only),
        rotational: all().any(|geometry| geometry.rotational),
        write_cache: all().any(|geometry| geometry.write_cache),
        discard: discards.and_then(|units| units.into_iter().max()),
        write_zeroes: all().all(|geometry| geometry.write_zeroes),
    }
}

fn check_members(name: &str, members: &[Backing]) -> Result<()> {
    if !(2..=MAX_SLOTS as usize).contains(&members.len()) {
        return usage(format!(
            "a {name} device has 2 to {MAX_SLOTS} files, not {}; give each with -f FILE",
            members.len()
        ));
    }
    for (number, one) in members.iter().enumerate() {
        if let Some(other) = members[..number].iter().find(|other| other.overlaps(one)) {
            return usage(format!(
                "`{}` and `{}` share bytes, which would be at two places of the device",
                other.path.display(),
                one.path.display()
            ));
        }
    }
    Ok(())
}

/// A chunk as the kernel counts it.
fn check_chunk(bytes: u64) -> Result<u32> {
    match u32::try_from(bytes) {
        Ok(chunk) if CHUNKS.contains(&bytes) && chunk.is_power_of_two() => Ok(chunk),
        _ => usage(format!(
            "`{bytes}` is not a chunk; it is a power of two from 4KiB to 1GiB"
        )),
    }
}

/// Shows only the first `len` bytes of a member's window; `unit` is what `len` is counted in.
fn shorten(member: &mut Backing, len: u64, unit: impl Fn() -> String) -> Result<()> {
    let path = member.path.display();
    if len == 0 {
        return usage(format!(
            "`{path}` cannot be a part of the device: its {} bytes are less than {}",
            member.geometry.size,
            unit()
        ));
    }
    let lost = member.geometry.size - len;
    if lost > 0 {
        log::warn!("the last {lost} bytes of `{path}` are not used");
    }
    member.geometry.size = len;
    Ok(())
}

fn usage<T>(text: String) -> Result<T> {
    Err(Error::new(Kind::Usage, text))
}

#[cfg(test)]
mod tests;
