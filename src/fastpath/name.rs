// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of programs.

use crate::error::{Error, Kind, Result};
use crate::uapi::ubd::OPS_NAME_LEN;
use std::fmt;
use std::str::FromStr;

/// The name under which a program is registered: 1 to 15 of `A-Z a-z 0-9 _ . -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let why = if text.is_empty() {
            "it is empty"
        } else if text.len() >= OPS_NAME_LEN {
            "it is longer than 15 bytes"
        } else if text.starts_with(['.', '-']) {
            "it must not begin with `.` or `-`"
        } else if !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        {
            "it takes letters, digits, `_`, `.` and `-` only"
        } else {
            return Ok(Name(text.into()));
        };
        Err(Error::new(
            Kind::Usage,
            format!("`{text}` cannot name a program: {why}"),
        ))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "linear", "my_map-2.1", "123456789012345"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "1234567890123456",
            ".",
            "..",
            "-x",
            "a/b",
            "a b",
            "a\0",
            "é",
        ] {
            assert_eq!(
                bad.parse::<Name>().unwrap_err().kind(),
                Kind::Usage,
                "{bad:?}"
            );
        }
    }
}
