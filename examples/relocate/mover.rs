// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mover: takes clusters to free places, for as long as it is let.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use ubd_bpf::cluster::Place;
use ubd_bpf::error::Context;
use ubd_bpf::Result;

use super::target::Moving;

/// Moves clusters of a device; several threads may use one.
pub struct Mover<'a> {
    target: &'a Moving,
    free: Mutex<Vec<Place>>,
}

impl<'a> Mover<'a> {
    pub fn new(target: &'a Moving) -> Self {
        Mover {
            target,
            free: Mutex::new(target.spare()),
        }
    }

    /// Moves a random cluster to a random free place. False: no place was free.
    pub fn step(&self, fence: impl FnOnce() -> Result<()>) -> Result<bool> {
        let cluster = fastrand::u32(..self.target.map.clusters());
        let Some(to) = self.with_free(|free| match free.len() {
            0 => None,
            n => Some(free.swap_remove(fastrand::usize(..n))),
        }) else {
            return Ok(false);
        };
        let copy = |from, to| self.copy(from, to);
        let moved = self.target.map.relocate(cluster, to, fence, copy);
        // Whichever is not the cluster's now.
        let free = *moved.as_ref().unwrap_or(&to);
        self.with_free(|all| all.push(free));
        moved.map(|_| true)
    }

    /// Copies a cluster past the page cache, durably.
    fn copy(&self, from: Place, to: Place) -> Result<()> {
        let file = &self.target.backing.file;
        let len = self.target.map.cluster_bytes() as usize;
        let mut memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        let bytes = &mut memory[start..start + len];
        file.read_exact_at(bytes, self.target.byte(from))
            .and_then(|()| file.write_all_at(bytes, self.target.byte(to)))
            .and_then(|()| file.sync_data())
            .context(|| format!("failed to copy {from:?} to {to:?}"))
    }

    fn with_free<T>(&self, use_it: impl FnOnce(&mut Vec<Place>) -> T) -> T {
        use_it(&mut self.free.lock().unwrap_or_else(|err| err.into_inner()))
    }
}
