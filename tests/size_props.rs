// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of the size parser.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

use proptest::prelude::*;
use ubd_bpf::size::{human, parse};

const LETTERS: &str = "KMGTPE";

/// A unit as people write it, and what it is worth.
fn unit() -> impl Strategy<Value = (String, u128)> {
    (0..LETTERS.len(), 0..3usize, any::<bool>()).prop_map(|(power, form, lower)| {
        let base: u128 = if form == 2 { 1000 } else { 1024 };
        let letter = &LETTERS[power..=power];
        let letter = if lower {
            letter.to_lowercase()
        } else {
            letter.to_owned()
        };
        let suffix = ["", "iB", "B"][form];
        (format!("{letter}{suffix}"), base.pow(power as u32 + 1))
    })
}

proptest! {
    /// The value is the product, exactly, or the size is refused.
    #[test]
    fn a_size_is_its_number_times_its_unit(number in any::<u64>(), (suffix, worth) in unit()) {
        let product = u128::from(number) * worth;
        prop_assert_eq!(parse(&format!("{number}{suffix}")).ok(), u64::try_from(product).ok());
    }

    /// The same for numbers that fit, which are rare among the ones above.
    #[test]
    fn small_numbers_of_units_fit(number in 0u64..8, (suffix, worth) in unit()) {
        let size = parse(&format!("{number}{suffix}")).unwrap();
        prop_assert_eq!(u128::from(size), u128::from(number) * worth);
    }

    #[test]
    fn plain_bytes_are_themselves(bytes in any::<u64>()) {
        prop_assert_eq!(parse(&bytes.to_string()).unwrap(), bytes);
    }

    /// No text makes the parser panic, and what it takes begins with a digit.
    #[test]
    fn any_text_is_taken_or_refused(text in ".{0,24}") {
        if parse(&text).is_ok() {
            prop_assert!(text.starts_with(|c: char| c.is_ascii_digit()));
        }
    }

    /// What people are shown is never more than the size, and less than a
    /// tenth of the unit below it.
    #[test]
    fn shown_sizes_are_rounded_down(bytes in any::<u64>()) {
        let shown = human(bytes);
        let letters = shown.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(shown.len());
        let (number, suffix) = shown.split_at(letters);
        let unit = u128::from(parse(&format!("1{suffix}")).unwrap());
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let ten_times = |text: &str| text.parse::<u128>().unwrap();
        let shown = (ten_times(whole) * 10 + ten_times(tenths)) * unit;
        let bytes = u128::from(bytes) * 10;
        prop_assert!(shown <= bytes && bytes < shown + unit);
    }
}
