// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it takes to make a target again: for the daemon that follows one that died.

use super::{backing, Backing, Members, Null, OpenOptions, Target};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

mod resize;

/// The kinds of device that `ubd add` makes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    /// Reads zeroes, forgets writes
    Null,
    /// Shows a file or block device
    Loop,
    /// Shows files and block devices, one behind the other
    Concat,
    /// Deals out its blocks to files and block devices in turn
    Stripe,
}

/// A target, so that [`Spec::open`] makes one that serves the same bytes. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub kind: TargetKind,
    /// Of the device.
    pub size: u64,
    /// Logical block of the device.
    pub block: u32,
    pub read_only: bool,
    /// Of a stripe.
    pub chunk: Option<u64>,
    pub members: Vec<Member>,
}

/// A file or block device of a [`Spec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Absolute.
    pub path: PathBuf,
    /// First byte of the window.
    pub offset: u64,
    /// Length of the window.
    pub len: u64,
    /// The page cache is bypassed.
    pub direct: bool,
    pub identity: Identity,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Identity {
    File {
        dev: u64,
        ino: u64,
        /// When it was made, in nanoseconds since 1970, where the file system knows: inode numbers
        /// are used again.
        born: Option<u64>,
    },
    Block {
        rdev: u64,
    },
}

impl Identity {
    pub(super) fn of(nature: backing::Nature, meta: &Metadata) -> Self {
        match nature {
            backing::Nature::File => Identity::File {
                dev: meta.dev(),
                ino: meta.ino(),
                born: meta
                    .created()
                    .ok()
                    .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
                    .map(|since| since.as_nanos() as u64),
            },
            backing::Nature::Block => Identity::Block { rdev: meta.rdev() },
        }
    }
}

impl TargetKind {
    /// As `ubd add` takes it.
    pub fn name(self) -> &'static str {
        match self {
            TargetKind::Null => "null",
            TargetKind::Loop => "loop",
            TargetKind::Concat => "concat",
            TargetKind::Stripe => "stripe",
        }
    }
}

impl Member {
    fn open(&self, block: u32, read_only: bool) -> Result<Backing> {
        let backing = Backing::open(&OpenOptions {
            path: self.path.clone(),
            offset: self.offset,
            size_limit: Some(self.len),
            block: Some(block.into()),
            read_only,
            direct: Some(self.direct),
        })?;
        if backing.identity != self.identity {
            return Err(refused(format!(
                "`{}` is another file than it was",
                self.path.display()
            )));
        }
        if backing.geometry.size != self.len {
            return Err(refused(format!(
                "`{}` has become smaller: {} bytes of it were shown, and {} are there",
                self.path.display(),
                self.len,
                backing.geometry.size
            )));
        }
        Ok(backing)
    }
}

impl Spec {
    /// The bytes that each member has by now, from the start of its window on.
    ///
    /// # Errors
    /// Those of [`Self::open`], but a member may have become smaller.
    pub fn room(&self) -> Result<Vec<u64>> {
        let room = |member: &Member| {
            // One sector is enough to look at the file.
            let looked = Member {
                len: self.block.into(),
                ..member.clone()
            };
            looked.open(self.block, true).map(|backing| backing.room)
        };
        self.members.iter().map(room).collect()
    }

    /// Opens the files, and makes the target.
    ///
    /// # Errors
    /// Those of opening; [`Kind::Usage`] when the files are not those they were, or are smaller,
    /// and when the numbers make no sense.
    pub fn open(&self) -> Result<Arc<dyn Target>> {
        if let Some(member) = self
            .members
            .iter()
            .find(|member| !member.path.is_absolute())
        {
            return Err(refused(format!(
                "`{}` is not an absolute path",
                member.path.display()
            )));
        }
        let open = |member: &Member| member.open(self.block, self.read_only);
        let mut members = self.members.iter().map(open).collect::<Result<Vec<_>>>()?;
        let target: Arc<dyn Target> = match (self.kind, self.chunk) {
            (TargetKind::Null, None) if members.is_empty() => Arc::new(Null::new(
                self.size,
                super::check_block_size(self.block.into())?,
            )?),
            (TargetKind::Loop, None) => match (members.pop(), members.len()) {
                (Some(backing), 0) => Arc::new(Members::one(backing)),
                _ => return Err(refused("a loop device has one file".to_owned())),
            },
            (TargetKind::Concat, None) => Arc::new(Members::concat(members)?),
            (TargetKind::Stripe, Some(chunk)) => Arc::new(Members::stripe(members, chunk)?),
            _ => return Err(refused(format!("this is no {} device", self.kind.name()))),
        };
        let geometry = target.geometry();
        if (geometry.size, geometry.logical_block) != (self.size, self.block) {
            return Err(refused(format!(
                "the device had {} bytes in blocks of {}, and would have {} in blocks of {}",
                self.size, self.block, geometry.size, geometry.logical_block
            )));
        }
        Ok(target)
    }
}

fn refused(text: String) -> Error {
    Error::new(Kind::Usage, text)
}

#[cfg(test)]
mod tests;
