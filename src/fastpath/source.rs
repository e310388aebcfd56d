// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where programs come from: files, and the library itself.

use super::Shipped;
use crate::error::Result;
use crate::limited;
use std::borrow::Cow;
use std::path::Path;

/// More than any program with all its type information.
const MAX_BYTES: u64 = 64 << 20;

/// Where the bytes of an object come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// What messages call it: a path, or the name of a shipped program.
    pub(super) label: String,
    pub(super) bytes: Cow<'static, [u8]>,
}

impl Source {
    /// The object file at `path`.
    pub fn file(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let bytes = limited::read(path, MAX_BYTES)?;
        Ok(Source {
            label,
            bytes: bytes.into(),
        })
    }

    /// What a person means by `text`: the file of that path, else the shipped program of that name.
    pub fn find(text: &str) -> Result<Self> {
        let path = Path::new(text);
        match Shipped::find(text) {
            Some(shipped) if !path.exists() => Ok(shipped.into()),
            _ => Source::file(path),
        }
    }
}

impl From<&'static Shipped> for Source {
    fn from(shipped: &'static Shipped) -> Self {
        Source {
            label: shipped.name.into(),
            bytes: shipped.bytes.into(),
        }
    }
}
