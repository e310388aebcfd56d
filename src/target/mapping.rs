// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shipped program of a target needs to know of a device.

/// The shipped program that maps as a target does, and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Its name, of those in [`crate::fastpath::shipped`].
    pub program: &'static str,
    /// The parameter of the binding.
    pub cookie: u64,
    /// Variables of the program, as `VAR=VALUE`. If there are any, the device
    /// has a program of its own.
    pub settings: Vec<String>,
}

impl Mapping {
    /// The device is slot 0.
    pub fn linear() -> Self {
        Mapping {
            program: "linear",
            cookie: 0,
            settings: Vec::new(),
        }
    }

    /// Slots of these lengths (bytes), one behind the other.
    pub fn concat(lens: impl Iterator<Item = u64>) -> Self {
        let lens: Vec<_> = lens.map(|bytes| (bytes >> 9).to_string()).collect();
        Mapping {
            program: "concat",
            cookie: 0,
            settings: vec![
                format!("nr={}", lens.len()),
                format!("slot_len={}", lens.join(",")),
            ],
        }
    }

    /// Chunks of `chunk` bytes, a power of two, dealt out to `members` slots.
    pub fn stripe(members: u32, chunk: u64) -> Self {
        let order = u64::from((chunk >> 9).trailing_zeros());
        Mapping {
            program: "stripe",
            cookie: u64::from(members) | order << 8,
            settings: Vec::new(),
        }
    }
}
