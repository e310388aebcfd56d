// SPDX-License-Identifier: MIT OR Apache-2.0
//! A table that a program in the kernel reads.

use super::table::check_size;
use super::{Content, Table};
use crate::control::Control;
use crate::error::Result;
use crate::fastpath::{Clusters, Name, Registered, Source};
use crate::uapi::ubd;
use std::ops::Deref;

/// What map to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name that the program is bound by.
    pub name: Name,
    /// [`Source::cluster`], [`Source::cluster_fixed`], or a program made with `bpf/ubd_cluster.h`.
    pub program: Source,
    /// Clusters of the device; each takes 8 bytes of kernel memory.
    pub clusters: u32,
    /// A power of two from 512 bytes to 1 GiB.
    pub cluster_bytes: u64,
}

/// A [`Table`] and the registered program that maps by it.
///
/// The locks are this process's: of the processes that share a map (by `fork`, or its pins), one
/// may change it. When it ends, however it does, the program goes and its devices ask their
/// daemon again, unless it was [pinned](ClusterMap::pin).
#[derive(Debug)]
pub struct ClusterMap {
    table: Table,
    program: Registered,
}

impl ClusterMap {
    /// Loads and registers the program, with what `content` says of each cluster.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`] for sizes that make no sense or a program that is not made for this,
    /// [`crate::Kind::Exists`] if the name is taken, and those of [`crate::fastpath::load`].
    pub fn load(options: &Options, content: impl Fn(u32) -> Content) -> Result<Self> {
        let Options {
            name,
            program,
            clusters,
            cluster_bytes,
        } = options;
        // Of sectors, as the program counts.
        let shift = check_size(*cluster_bytes)? - 9;
        let loaded = Clusters::load(program, name, *clusters, shift)?;
        let mut table = Table::map(loaded.array()?, *clusters, *cluster_bytes)?;
        table.fill(content);
        let program = loaded.register()?;
        let registered = Control::open()?.programs()?;
        let flags = registered
            .iter()
            .find(|registered| registered.name == name.as_str())
            .map_or(0, |registered| registered.flags);
        table.tracked = flags & ubd::OPS_TRACKED != 0;
        Ok(ClusterMap { table, program })
    }

    /// The name to bind it by.
    pub fn name(&self) -> &Name {
        self.program.name()
    }

    /// Leaves the program in the kernel when this process ends, until `ubd-bpf unload`. For maps
    /// that nobody needs to change any more.
    pub fn pin(&mut self) -> Result<()> {
        self.program.pin()
    }
}

impl Deref for ClusterMap {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.table
    }
}
