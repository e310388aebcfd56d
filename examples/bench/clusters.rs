// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cluster map of a million entries in which every cluster is where it always was.

use anyhow::{Context, Result};
use ubd_bpf::cluster::{ClusterMap, Content, Options, Place};
use ubd_bpf::fastpath::Source;

/// How many, and how large: 64 GiB.
pub const CLUSTERS: u32 = 1 << 20;
pub const CLUSTER_BYTES: u64 = 64 << 10;

/// Loads `program` with the map, under `name`.
pub fn identity(name: &str, program: Source) -> Result<ClusterMap> {
    let options = Options {
        name: name.parse()?,
        program,
        clusters: CLUSTERS,
        cluster_bytes: CLUSTER_BYTES,
    };
    // An entry has room for far more clusters than these.
    ClusterMap::load(&options, |cluster| {
        Place::new(0, cluster.into()).map_or(Content::Unmapped, Content::writable)
    })
    .context("failed to make a cluster map")
}
