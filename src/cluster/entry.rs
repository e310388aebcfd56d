// SPDX-License-Identifier: MIT OR Apache-2.0
//! One entry of a cluster map, as `bpf/ubd_cluster.h` lays it out.

use crate::error::{Error, Kind, Result};
use crate::uapi::ubd::{
    CLUSTER_GEN_BITS as GENERATION_BITS, CLUSTER_GEN_SHIFT as GENERATION_SHIFT,
    CLUSTER_LOCKED as LOCKED, CLUSTER_PLACE_BITS as PLACE_BITS, CLUSTER_PLACE_SHIFT as PLACE_SHIFT,
    CLUSTER_SLOT_BITS as SLOT_BITS, CLUSTER_SLOT_SHIFT as SLOT_SHIFT, CLUSTER_VALID as VALID,
    CLUSTER_WRITABLE as WRITABLE, CLUSTER_ZERO as ZERO, MAX_SLOTS,
};

const _: () = assert!(MAX_SLOTS == 1 << SLOT_BITS);
const _: () = assert!(PLACE_SHIFT + PLACE_BITS == u64::BITS);

/// Where a cluster can live: one of a slot's clusters, counted from the start of its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    slot: u32,
    cluster: u64,
}

impl Place {
    /// Cluster `cluster` of slot `slot`.
    ///
    /// # Errors
    /// [`Kind::Usage`] when an entry has no room for the numbers: slots are below 64, clusters
    /// below 2⁴⁰.
    pub fn new(slot: u32, cluster: u64) -> Result<Self> {
        if slot >= MAX_SLOTS || cluster >> PLACE_BITS != 0 {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "failed to name cluster {cluster} of slot {slot}: a map has room for \
                     {MAX_SLOTS} slots of 2^{PLACE_BITS} clusters"
                ),
            ));
        }
        Ok(Place { slot, cluster })
    }

    /// The number of the slot.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// The cluster within the slot's window.
    pub fn cluster(self) -> u64 {
        self.cluster
    }
}

/// What the map says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing: reads and writes go to the daemon.
    Unmapped,
    /// Zeroes: reads need nobody, writes go to the daemon.
    Zero,
    /// It lives there. Reads go there; writes too if it is writable, else to the daemon.
    Mapped { place: Place, writable: bool },
}

impl Content {
    /// Reads and writes go to `place`.
    pub fn writable(place: Place) -> Self {
        Content::Mapped {
            place,
            writable: true,
        }
    }

    /// Reads go to `place`, writes to the daemon: for clusters that are shared.
    pub fn read_only(place: Place) -> Self {
        Content::Mapped {
            place,
            writable: false,
        }
    }

    /// Where the cluster lives, if it lives anywhere.
    pub fn place(self) -> Option<Place> {
        match self {
            Content::Mapped { place, .. } => Some(place),
            Content::Unmapped | Content::Zero => None,
        }
    }
}

/// An entry of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub content: Content,
    /// Somebody is about to change it: all I/O goes to the daemon.
    pub locked: bool,
    /// Another one each time a lock goes; wraps around after 2¹⁴.
    pub(super) generation: u16,
}

impl Entry {
    /// How often the entry was filled or unlocked, modulo 2¹⁴: while it is the same, nobody has
    /// changed the entry.
    pub fn generation(self) -> u16 {
        self.generation
    }

    /// The entry that takes the place of this one.
    pub(super) fn next(self, content: Content, locked: bool) -> Self {
        Entry {
            content,
            locked,
            generation: (self.generation + 1) & ((1 << GENERATION_BITS) - 1),
        }
    }
}

impl From<Entry> for u64 {
    fn from(entry: Entry) -> u64 {
        let content = match entry.content {
            Content::Unmapped => 0,
            Content::Zero => VALID | ZERO,
            Content::Mapped { place, writable } => {
                VALID
                    | if writable { WRITABLE } else { 0 }
                    | u64::from(place.slot) << SLOT_SHIFT
                    | place.cluster << PLACE_SHIFT
            }
        };
        content
            | if entry.locked { LOCKED } else { 0 }
            | u64::from(entry.generation) << GENERATION_SHIFT
    }
}

/// Any word is an entry: what has no meaning beside the flags is ignored, as by the program.
impl From<u64> for Entry {
    fn from(word: u64) -> Entry {
        let field = |shift: u32, bits: u32| (word >> shift) & ((1 << bits) - 1);
        let content = match word & (VALID | ZERO) {
            VALID => Content::Mapped {
                place: Place {
                    slot: field(SLOT_SHIFT, SLOT_BITS) as u32,
                    cluster: field(PLACE_SHIFT, PLACE_BITS),
                },
                writable: word & WRITABLE != 0,
            },
            both if both == VALID | ZERO => Content::Zero,
            _ => Content::Unmapped,
        };
        Entry {
            content,
            locked: word & LOCKED != 0,
            generation: field(GENERATION_SHIFT, GENERATION_BITS) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents() -> impl Strategy<Value = Content> {
        let place = (0..MAX_SLOTS, 0..1u64 << PLACE_BITS)
            .prop_map(|(slot, cluster)| Place::new(slot, cluster).unwrap());
        prop_oneof![
            Just(Content::Unmapped),
            Just(Content::Zero),
            (place, any::<bool>())
                .prop_map(|(place, writable)| Content::Mapped { place, writable })
        ]
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_word(
            content in contents(),
            locked: bool,
            generation in 0..1u16 << GENERATION_BITS,
        ) {
            let entry = Entry { content, locked, generation };
            prop_assert_eq!(Entry::from(u64::from(entry)), entry);
        }

        /// Unpacking loses only what has no meaning, so packing again changes nothing more.
        #[test]
        fn any_word_is_an_entry(word: u64) {
            let entry = Entry::from(word);
            let again = u64::from(entry);
            prop_assert_eq!(Entry::from(again), entry);
            prop_assert_eq!(again & !word, 0, "packing sets no bit that was not there");
        }

        #[test]
        fn every_change_shows(content in contents(), next in contents(), locked: bool, generation in 0..1u16 << GENERATION_BITS) {
            let entry = Entry { content, locked, generation };
            let after = entry.next(next, locked);
            prop_assert_ne!(u64::from(entry), u64::from(after));
            prop_assert_eq!(Entry::from(u64::from(after)).content, next);
        }
    }

    #[test]
    fn the_layout_is_the_headers() {
        let entry = Entry {
            content: Content::writable(Place::new(5, 0x12_3456_789a).unwrap()),
            locked: true,
            generation: 0x2abc,
        };
        let word = 0x12_3456_789a << 24 | 0x2abc << 10 | 5 << 4 | 0b1011;
        assert_eq!(u64::from(entry), word);
        assert_eq!(Entry::from(0).content, Content::Unmapped);
        assert_eq!(Entry::from(0b0101).content, Content::Zero);
        // Without VALID nothing else counts.
        assert_eq!(Entry::from(word & !1).content, Content::Unmapped);
    }

    #[test]
    fn a_place_has_to_fit() {
        assert!(Place::new(63, (1 << 40) - 1).is_ok());
        assert!(Place::new(64, 0).is_err());
        assert!(Place::new(0, 1 << 40).is_err());
    }
}
