// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes of a device lie on its members; nothing but arithmetic.

use std::ops::Range;

/// How members make a device. All numbers are bytes, counted from the start of
/// the device or of a member's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One member behind the other.
    Concat {
        /// Where each member ends on the device.
        ends: Vec<u64>,
    },
    /// Chunks dealt out to the members in turn.
    Stripe {
        members: u32,
        /// A power of two.
        chunk: u64,
        /// Of each member; a multiple of `chunk`.
        len: u64,
    },
}

/// A run of the device that is one run of one member, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub member: u32,
    /// Its first byte on the member.
    pub at: u64,
    /// How far it goes.
    pub len: u64,
}

impl Layout {
    /// Members of these lengths, one behind the other.
    pub fn concat(lens: impl IntoIterator<Item = u64>) -> Self {
        let ends = lens.into_iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        Layout::Concat {
            ends: ends.collect(),
        }
    }

    /// The same, with the end as far away as can be.
    pub fn open_ended(&self) -> Self {
        let mut layout = self.clone();
        match &mut layout {
            Layout::Concat { ends } => {
                if let Some(end) = ends.last_mut() {
                    *end = i64::MAX as u64;
                }
            }
            Layout::Stripe {
                members,
                chunk,
                len,
            } => *len = i64::MAX as u64 / u64::from(*members) / *chunk * *chunk,
        }
        layout
    }

    /// The size of the device.
    pub fn size(&self) -> u64 {
        match self {
            Layout::Concat { ends } => ends.last().copied().unwrap_or(0),
            Layout::Stripe { members, len, .. } => u64::from(*members) * len,
        }
    }

    /// Where byte `at` of the device is; `None` behind its end.
    pub fn find(&self, at: u64) -> Option<Piece> {
        match self {
            Layout::Concat { ends } => {
                let member = ends.partition_point(|&end| end <= at);
                let (start, end) = (self.start(member), *ends.get(member)?);
                Some(Piece {
                    member: member as u32,
                    at: at - start,
                    len: end - at,
                })
            }
            Layout::Stripe { members, chunk, .. } => {
                let (row, member) = dealt(at / chunk, *members);
                (at < self.size()).then_some(Piece {
                    member,
                    at: row * chunk + at % chunk,
                    len: chunk - at % chunk,
                })
            }
        }
    }

    /// What of `member` belongs to `range` of the device. However many pieces
    /// of the device that is, it is one run of the member.
    pub fn share(&self, member: u32, range: &Range<u64>) -> Range<u64> {
        // The bytes of the member that lie before `at` on the device.
        let before = |at: u64| match self {
            Layout::Concat { ends } => {
                let start = self.start(member as usize);
                let end = ends.get(member as usize).copied().unwrap_or(start);
                at.clamp(start, end) - start
            }
            Layout::Stripe {
                members,
                chunk,
                len,
            } => {
                let (row, turn) = dealt(at / chunk, *members);
                let in_row = match turn.cmp(&member) {
                    std::cmp::Ordering::Less => 0,
                    std::cmp::Ordering::Equal => at % chunk,
                    std::cmp::Ordering::Greater => *chunk,
                };
                (row * chunk + in_row).min(*len)
            }
        };
        before(range.start)..before(range.end)
    }

    /// Where `member` of a concatenation starts.
    fn start(&self, member: usize) -> u64 {
        match self {
            Layout::Concat { ends } if member > 0 => ends[member - 1],
            _ => 0,
        }
    }
}

/// The row of chunk number `chunk`, and the member whose turn it is.
fn dealt(chunk: u64, members: u32) -> (u64, u32) {
    let members = u64::from(members);
    (chunk / members, (chunk % members) as u32)
}
