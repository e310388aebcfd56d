// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as `losetup` reads them.

use crate::error::{Error, Kind, Result};

const UNITS: &str = "KMGTPE";

/// Reads a size in bytes: `512`, `4K` and `4KiB` (1024), `4KB` (1000), up to E.
///
/// # Errors
/// [`Kind::Usage`] when the text is no size, or too large for 64 bits.
pub fn parse(text: &str) -> Result<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let bad = || {
        Error::new(
            Kind::Usage,
            format!("`{text}` is not a size; write bytes, or 4K, 1GiB (1024), 1GB (1000)"),
        )
    };
    let too_large = || Error::new(Kind::Usage, format!("`{text}` is too large"));
    if number.is_empty() {
        return Err(bad());
    }
    let unit = multiplier(suffix).ok_or_else(bad)?;
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(unit).ok_or_else(too_large)
}

fn multiplier(suffix: &str) -> Option<u64> {
    let mut chars = suffix.chars();
    let Some(letter) = chars.next() else {
        return Some(1);
    };
    let power = UNITS.find(letter.to_ascii_uppercase())? as u32 + 1;
    match chars.as_str() {
        "" | "iB" | "ib" | "IB" => Some(1024u64.pow(power)),
        "B" | "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

/// Writes a size for people: `512`, `4KiB`, `1.5GiB`.
pub fn human(bytes: u64) -> String {
    let mut power = 0;
    while power < UNITS.len() && bytes >> (10 * (power + 1)) != 0 {
        power += 1;
    }
    if power == 0 {
        return bytes.to_string();
    }
    let unit = 1u64 << (10 * power);
    let letter = &UNITS[power - 1..power];
    // Tenths, rounded down, so that nothing looks larger than it is.
    match (u128::from(bytes % unit) * 10 / u128::from(unit)) as u64 {
        0 => format!("{}{letter}iB", bytes / unit),
        tenths => format!("{}.{tenths}{letter}iB", bytes / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_losetup() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4k", 4096),
            ("4KiB", 4096),
            ("4KB", 4000),
            ("1M", 1 << 20),
            ("1GiB", 1 << 30),
            ("1GB", 1_000_000_000),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "K",
            "-1",
            "1.5G",
            "4Q",
            "4KiBs",
            "4 K",
            "16E",
            "99999999999999999999",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn people_read_rounded_sizes() {
        assert_eq!(human(0), "0");
        assert_eq!(human(1023), "1023");
        assert_eq!(human(250 << 30), "250GiB");
        assert_eq!(human(1536 << 20), "1.5GiB");
        assert_eq!(human(u64::MAX), "15.9EiB");
    }
}
