// SPDX-License-Identifier: MIT OR Apache-2.0
//! The entries of a map and the locks on them.

use super::entry::{Content, Entry, Place};
use crate::channel::{Signal, Ticket};
use crate::error::{Context, Error, Kind, Result};
use crate::uapi::ubd::{CLUSTER_LOCKED as LOCKED, CLUSTER_MAX_SHIFT};
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use std::fmt;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// A part of an I/O that lies in one cluster; in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The cluster of the device.
    pub cluster: u32,
    /// Where it begins within the cluster.
    pub within: u64,
    pub len: u64,
}

/// The entries of all clusters of a device.
///
/// An entry changes only through [`Locked`]; there is one at a time for each cluster.
#[derive(Debug)]
pub struct Table {
    words: Words,
    /// Log2 of the bytes of a cluster.
    shift: u32,
    /// Raised whenever a lock goes.
    unlocked: Signal,
    /// The driver tracks the I/O that the program maps, so that a fence can wait for it.
    pub(super) tracked: bool,
}

impl Table {
    /// A table of `clusters` unmapped clusters of `cluster_bytes` bytes that no program reads.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a size that is not a power of two from 512 bytes to 1 GiB.
    pub fn new(clusters: u32, cluster_bytes: u64) -> Result<Self> {
        let words = (0..clusters).map(|_| AtomicU64::new(0)).collect();
        Table::of(Words::Own(words), cluster_bytes)
    }

    /// The table in the BPF array `array` of `clusters` words.
    pub(super) fn map(array: impl AsFd, clusters: u32, cluster_bytes: u64) -> Result<Self> {
        Table::of(Words::map(array, clusters)?, cluster_bytes)
    }

    fn of(words: Words, cluster_bytes: u64) -> Result<Self> {
        Ok(Table {
            words,
            shift: check_size(cluster_bytes)?,
            unlocked: Signal::default(),
            tracked: true,
        })
    }

    /// Clusters of the device.
    pub fn clusters(&self) -> u32 {
        self.words.len() as u32
    }

    /// Bytes of a cluster.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.shift
    }

    /// The part of `len` bytes from byte `at` of the device that lies in the first cluster; none
    /// behind the end of the table.
    pub fn piece(&self, at: u64, len: u64) -> Option<Piece> {
        let within = at & (self.cluster_bytes() - 1);
        Some(Piece {
            cluster: u32::try_from(at >> self.shift)
                .ok()
                .filter(|cluster| *cluster < self.clusters())?,
            within,
            len: len.min(self.cluster_bytes() - within),
        })
    }

    /// The entry of `cluster`, which somebody may be about to change.
    ///
    /// # Panics
    /// As all methods that take a cluster: if the table has no such cluster.
    pub fn get(&self, cluster: u32) -> Entry {
        Entry::from(self.word(cluster).load(Ordering::Acquire))
    }

    /// Sets all entries, before anybody else can see the table.
    pub fn fill(&mut self, content: impl Fn(u32) -> Content) {
        for (cluster, word) in (0..).zip(self.words.iter()) {
            let old = Entry::from(word.load(Ordering::Relaxed));
            let new = old.next(content(cluster), false);
            word.store(new.into(), Ordering::Release);
        }
    }

    /// Locks `cluster`, unless somebody else has.
    pub fn try_lock(&self, cluster: u32) -> Option<Locked<'_>> {
        let word = self.word(cluster);
        // SeqCst, here and when unlocking: between the two loads of a waiter (its ticket, then
        // this) no unlock may hide.
        let taken = word.fetch_or(LOCKED, Ordering::SeqCst);
        (taken & LOCKED == 0).then(|| Locked {
            table: self,
            cluster,
            entry: Entry::from(taken),
        })
    }

    /// Locks `cluster`; while somebody else has it, gives the ticket to wait with before trying
    /// again. For handlers: [`crate::channel::Step::Wait`].
    pub fn lock_or_wait(&self, cluster: u32) -> Result<Locked<'_>, Ticket> {
        let ticket = self.unlocked.ticket();
        self.try_lock(cluster).ok_or(ticket)
    }

    /// Locks `cluster`; sleeps while somebody else has it. Not for handlers.
    pub fn lock(&self, cluster: u32) -> Locked<'_> {
        loop {
            match self.lock_or_wait(cluster) {
                Ok(locked) => return locked,
                Err(ticket) => ticket.wait(),
            }
        }
    }

    /// Moves `cluster` to `to`: locks it, calls `fence`, lets `copy` bring its bytes from the
    /// first place to the second, and installs that. Gives the old place, which is free now.
    ///
    /// `fence` is [`crate::control::Control::fence`] of the device. `copy` must make the copy
    /// durable: the driver flushes a place that it has written to, and knows nothing of this one.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the cluster lives nowhere, and those of [`Locked::fence`] and `copy`. The
    /// entry is then what it was, as it is after a panic.
    pub fn relocate(
        &self,
        cluster: u32,
        to: Place,
        fence: impl FnOnce() -> Result<()>,
        copy: impl FnOnce(Place, Place) -> Result<()>,
    ) -> Result<Place> {
        let locked = self.lock(cluster);
        let Content::Mapped {
            place: from,
            writable,
        } = locked.content()
        else {
            return Err(Error::new(
                Kind::Usage,
                format!("failed to move cluster {cluster}: it lives nowhere"),
            ));
        };
        let fenced = locked.fence(fence)?;
        copy(from, to)?;
        fenced.install(Content::Mapped {
            place: to,
            writable,
        });
        Ok(from)
    }

    fn word(&self, cluster: u32) -> &AtomicU64 {
        &self.words[cluster as usize]
    }
}

/// The lock on a cluster: new I/O goes to the daemon, older I/O may still be on its way to the
/// cluster's place. Dropping it unlocks the entry as it was.
#[derive(Debug)]
#[must_use = "dropping it unlocks"]
pub struct Locked<'a> {
    table: &'a Table,
    cluster: u32,
    /// As it was before the lock.
    entry: Entry,
}

impl<'a> Locked<'a> {
    /// The cluster.
    pub fn cluster(&self) -> u32 {
        self.cluster
    }

    /// What the map says of it.
    pub fn content(&self) -> Content {
        self.entry.content
    }

    /// Waits, by `fence`, for the I/O that was mapped before the lock.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the map's program is not tracked, and those of `fence`; the entry
    /// is unlocked as it was.
    pub fn fence(self, fence: impl FnOnce() -> Result<()>) -> Result<Fenced<'a>> {
        if !self.table.tracked {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "failed to wait for the I/O of cluster {}: the program of the map is not \
                     tracked (UBD_OPS_TRACKED), so its clusters stay where they are",
                    self.cluster
                ),
            ));
        }
        fence()?;
        Ok(Fenced(self))
    }

    /// Installs `content` and unlocks.
    ///
    /// For a cluster that had no place, or that keeps it. Bytes must be in the new place before
    /// this, and this before the write that brought them is completed. If the cluster leaves a
    /// place, or stops being writable, that place may still be written to: [`Locked::fence`] first.
    pub fn install(self, content: Content) {
        // Unlocked here, so not again.
        let this = ManuallyDrop::new(self);
        this.unlock(content);
    }

    fn unlock(&self, content: Content) {
        // Nobody else stores while we have the lock.
        let new = self.entry.next(content, false);
        self.table
            .word(self.cluster)
            .store(new.into(), Ordering::SeqCst);
        self.table.unlocked.raise();
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.unlock(self.entry.content);
    }
}

/// A lock on a cluster whose place nobody in the kernel uses any more: it can be copied, shared or
/// given away. Dropping it unlocks the entry as it was.
#[derive(Debug)]
#[must_use = "dropping it unlocks"]
pub struct Fenced<'a>(Locked<'a>);

impl Fenced<'_> {
    /// The cluster.
    pub fn cluster(&self) -> u32 {
        self.0.cluster
    }

    /// What the map says of it.
    pub fn content(&self) -> Content {
        self.0.content()
    }

    /// Installs `content` and unlocks. Gives the place that the cluster has left, which may be
    /// used for something else now.
    pub fn install(self, content: Content) -> Option<Place> {
        let left = self.content().place();
        self.0.install(content);
        left.filter(|left| content.place() != Some(*left))
    }
}

/// Where the words are.
enum Words {
    /// In memory of our own.
    Own(Box<[AtomicU64]>),
    /// In a BPF array.
    Array {
        base: NonNull<AtomicU64>,
        len: usize,
    },
}

// SAFETY: atomics may be used from any thread, and the mapping is nobody else's to unmap.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    fn map(array: impl AsFd, clusters: u32) -> Result<Self> {
        let len = clusters as usize;
        let bytes = NonZeroUsize::new(len * size_of::<u64>())
            .ok_or_else(|| Error::new(Kind::Usage, "a map needs clusters"))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                array,
                0,
            )
        }
        .context(|| format!("failed to map the entries of {clusters} clusters into memory"))?;
        Ok(Words::Array {
            base: base.cast(),
            len,
        })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        match self {
            Words::Own(words) => words,
            // SAFETY: `map` made the mapping with this length, at a page boundary, and it stays
            // until the drop. Others change it as atomics do.
            Words::Array { base, len } => unsafe {
                std::slice::from_raw_parts(base.as_ptr(), *len)
            },
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Words::Array { base, len } = self {
            // SAFETY: made by `map` with this length, and no borrow of it is left.
            let unmapped = unsafe { munmap(base.cast(), *len * size_of::<u64>()) };
            debug_assert!(unmapped.is_ok());
        }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.len())
    }
}

/// Log2 of the bytes of a cluster.
pub(super) fn check_size(bytes: u64) -> Result<u32> {
    if bytes.is_power_of_two() && (512..=512 << CLUSTER_MAX_SHIFT).contains(&bytes) {
        return Ok(bytes.trailing_zeros());
    }
    Err(Error::new(
        Kind::Usage,
        format!("a cluster of {bytes} bytes is not a power of two from 512 bytes to 1GiB"),
    ))
}

#[cfg(test)]
mod tests;
