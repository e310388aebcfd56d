// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files and disks of which every byte is known, and what a device of them should show.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::support::backing::{noise, same};
use crate::support::io::{open_buffered, read_direct};
use crate::support::{sh, Files, LoopDisk, NullDisk, Ubd};

const PAGE: usize = 4096;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    /// A loop device of the kernel, which can discard and write zeroes.
    Loop,
    /// Of the kernel's null_blk, which keeps its data; no write-zeroes. Whole MiB only.
    Null,
}

/// How the members make the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Concat,
    /// Bytes of a chunk.
    Stripe(usize),
}

struct Member {
    kind: Kind,
    path: PathBuf,
    bytes: Vec<u8>,
    _disk: Option<Disk>,
}

#[allow(dead_code)] // held for their drops
enum Disk {
    Loop(LoopDisk),
    Null(NullDisk),
}

/// The members; gone when dropped.
pub struct Members {
    members: Vec<Member>,
    shape: Shape,
    direct: bool,
    _files: Files,
}

impl Members {
    /// Members of these lengths, full of noise; `direct` is for the files among them.
    pub fn new(shape: Shape, direct: bool, members: &[(Kind, usize)]) -> Result<Members> {
        let members = Members::sparse(shape, direct, members)?;
        for member in &members.members {
            let file = open_buffered(&member.path)?;
            file.write_all_at(&member.bytes, 0)
                .context("failed to fill a member")?;
            file.sync_all()?;
            // Whoever uses a disk past this cache must not meet it.
            if member.kind != Kind::File {
                sh(format!("blockdev --flushbufs {}", member.path.display()))?;
            }
        }
        Ok(members)
    }

    /// Members that hold nothing yet.
    pub fn sparse(shape: Shape, direct: bool, members: &[(Kind, usize)]) -> Result<Members> {
        let files = Files::ext4()?;
        let made = members.iter().enumerate().map(|(number, &(kind, len))| {
            let (path, disk) = match kind {
                Kind::File => (files.file(&format!("{number}"), len as u64)?, None),
                Kind::Loop => {
                    let file = files.file(&format!("{number}"), len as u64)?;
                    let disk = LoopDisk::new(&file, "")?;
                    (disk.node().into(), Some(Disk::Loop(disk)))
                }
                Kind::Null => {
                    let disk = NullDisk::new(len as u64 >> 20, 512, &[("discard", "1")])?;
                    let node = format!("/dev/{}", disk.name());
                    (node.into(), Some(Disk::Null(disk)))
                }
            };
            let pages = (0..len).step_by(PAGE);
            let page = |at| noise(at * 13 + number * 77_777, PAGE.min(len - at));
            Ok(Member {
                kind,
                path,
                bytes: pages.flat_map(page).copied().collect(),
                _disk: disk,
            })
        });
        Ok(Members {
            members: made.collect::<Result<_>>()?,
            shape,
            direct,
            _files: files,
        })
    }

    pub fn path(&self, number: usize) -> String {
        self.members[number].path.display().to_string()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether all can discard and write zeroes by themselves.
    pub fn can_all(&self) -> bool {
        self.members.iter().all(|member| member.kind != Kind::Null)
    }

    /// Where each member of a concatenation ends on the device.
    pub fn ends(&self) -> Vec<usize> {
        let lens = self.members.iter().map(|member| member.bytes.len());
        lens.scan(0, |end, len| {
            *end += len / 512 * 512;
            Some(*end)
        })
        .collect()
    }

    /// The options of `ubd add` for the device.
    pub fn options(&self) -> String {
        let mut options = match self.shape {
            Shape::Concat => "-t concat".to_owned(),
            Shape::Stripe(chunk) => format!("-t stripe --chunk {chunk}"),
        };
        for member in &self.members {
            options += &format!(" -f {}", member.path.display());
        }
        if self.direct {
            options += " --direct-io";
        }
        options
    }

    pub fn device(&self, more: &str) -> Result<Ubd> {
        Ubd::add(&[&self.options(), more])
    }

    /// Where the device has its bytes: member, first byte there, length; in the order of the device.
    fn runs(&self) -> Vec<(usize, usize, usize)> {
        let lens = self
            .members
            .iter()
            .map(|member| member.bytes.len() / 512 * 512);
        match self.shape {
            Shape::Concat => lens.enumerate().map(|(n, len)| (n, 0, len)).collect(),
            Shape::Stripe(chunk) => {
                let rows = lens.min().unwrap_or(0) / chunk;
                let row = |row| (0..self.members.len()).map(move |n| (n, row * chunk, chunk));
                (0..rows).flat_map(row).collect()
            }
        }
    }

    /// What the device shows at first.
    pub fn shown(&self) -> Vec<u8> {
        let bytes = |(n, at, len): (usize, usize, usize)| &self.members[n].bytes[at..at + len];
        self.runs().into_iter().flat_map(bytes).copied().collect()
    }

    /// Compares the members with what the device should hold by now; what it does not show must
    /// be as it was.
    pub fn check(&self, device: &[u8]) -> Result<()> {
        let mut should_be: Vec<Vec<u8>> = self.members.iter().map(|m| m.bytes.clone()).collect();
        let mut rest = device;
        for (n, at, len) in self.runs() {
            let (run, behind) = rest.split_at(len);
            should_be[n][at..at + len].copy_from_slice(run);
            rest = behind;
        }
        for (member, should_be) in self.members.iter().zip(&should_be) {
            let is = match member.kind {
                // Its page cache is the truth.
                Kind::File if !self.direct => {
                    let mut is = vec![0; should_be.len()];
                    open_buffered(&member.path)?.read_exact_at(&mut is, 0)?;
                    is
                }
                _ => read_direct(&member.path, 0, should_be.len())?,
            };
            same(&is, should_be).with_context(|| format!("in {}", member.path.display()))?;
        }
        Ok(())
    }
}
