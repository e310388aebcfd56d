// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices whose data moves: a map that says, cluster by cluster, where it lives.
//!
//! The driver's program `cluster` reads the map at every I/O, straight from memory that it shares
//! with this process; what an entry does not answer, it leaves to the daemon. The daemon changes
//! entries, and only under their locks:
//!
//! ```text
//!            lock              fence                    install
//!  Entry ──────────► Locked ──────────► Fenced ──────────────────► Entry, and the old
//!          new I/O     │     I/O in flight  │    the driver uses    place, now free
//!          declines    │     has ended      │    the new place
//!                      └─ install: for an entry that had no place, or keeps it
//! ```
//!
//! Dropping [`Locked`] or [`Fenced`] unlocks the entry as it was.
//! `docs/cluster-map.md` has the rules and how targets are built on them.

mod entry;
mod map;
mod progress;
mod table;

pub use entry::{Content, Entry, Place};
pub use map::{ClusterMap, Options};
pub use progress::{Next, Progress};
pub use table::{Fenced, Locked, Piece, Table};
