// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of another size: nothing but arithmetic.

use super::{refused, Spec, TargetKind};
use crate::error::Result;

impl Spec {
    /// The same device with `size` bytes, or as large as it can be. `room` are the bytes that each
    /// member has by now, from the start of its window on.
    ///
    /// # Errors
    /// [`crate::Kind::Usage`]: the size fits neither the members nor the blocks.
    pub fn resized(&self, size: Option<u64>, room: &[u64]) -> Result<Spec> {
        let mut spec = self.clone();
        let unit = self.unit();
        let most = self.most(room);
        let size = match (size, most) {
            (Some(size), _) => size,
            (None, Some(most)) => most / unit * unit,
            (None, None) => {
                return Err(refused(
                    "a null device can be of any size; say which".to_owned(),
                ))
            }
        };
        if size == 0 || size % unit != 0 {
            return Err(refused(format!(
                "a size of {size} bytes is not a positive multiple of {unit}"
            )));
        }
        if let Some(most) = most.filter(|&most| most < size) {
            return Err(refused(format!(
                "what is behind it has room for {most} bytes, not for {size}; make that larger \
                 first, a file with `truncate -s`"
            )));
        }
        spec.size = size;
        match (self.kind, spec.members.split_last_mut()) {
            (_, None) => {}
            (TargetKind::Stripe, Some(_)) => {
                let len = size / self.members.len() as u64;
                spec.members.iter_mut().for_each(|member| member.len = len);
            }
            (_, Some((last, others))) => {
                let before: u64 = others.iter().map(|member| member.len).sum();
                match size.checked_sub(before).filter(|&len| len > 0) {
                    Some(len) => last.len = len,
                    None => {
                        return Err(refused(format!(
                            "a size of {size} bytes leaves nothing of `{}`, the last file",
                            last.path.display()
                        )))
                    }
                }
            }
        }
        Ok(spec)
    }

    /// What sizes are counted in.
    fn unit(&self) -> u64 {
        match self.chunk {
            Some(chunk) => chunk.saturating_mul(self.members.len() as u64).max(1),
            None => u64::from(self.block).max(1),
        }
    }

    /// The bytes that the device could have, unless it can have any number.
    fn most(&self, room: &[u64]) -> Option<u64> {
        let (last, others) = self.members.split_last()?;
        Some(match self.kind {
            TargetKind::Stripe => {
                let least = room.iter().min().copied().unwrap_or(0);
                least.saturating_mul(self.members.len() as u64)
            }
            _ => others
                .iter()
                .map(|member| member.len)
                .sum::<u64>()
                .saturating_add(room.last().copied().unwrap_or(last.len)),
        })
    }
}
