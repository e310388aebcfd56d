// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of words, with quotes as a shell has them.

use anyhow::{bail, Result};

/// The words of a line. Quotes, single or double, and backslashes keep blanks and `#` inside a
/// word; a word that starts with `#` ends the line.
pub(super) fn split(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => bail!("the line ends with a backslash"),
            },
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        bail!("a quote ({quote}) is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (line, words) in [
            ("", &[][..]),
            ("  # nothing", &[]),
            ("a  b\tc # d", &["a", "b", "c"]),
            ("a#b '#c' \\#d", &["a#b", "#c", "#d"]),
            (
                "'a b'\"c d\"e '' \"x\\\"y\" '\\'",
                &["a bc de", "", "x\"y", "\\"],
            ),
            ("-f /srv/a\\ b", &["-f", "/srv/a b"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        for line in ["'a", "\"a'", "a\\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_are_themselves(words in vec("[^']{0,12}", 0..5)) {
            let line: String = words.iter().map(|word| format!("'{word}' ")).collect();
            prop_assert_eq!(split(&line).unwrap(), words);
        }

        #[test]
        fn words_with_backslashes_are_themselves(words in vec(".{1,12}", 0..5)) {
            let escaped = |word: &String| word.chars().flat_map(|c| ['\\', c]).collect();
            let words_escaped: Vec<String> = words.iter().map(escaped).collect();
            prop_assert_eq!(split(&words_escaped.join(" \t")).unwrap(), words);
        }

        #[test]
        fn any_line_is_split_or_refused(line in "[ab'\"\\\\# ]{0,24}|.{0,24}") {
            if let Ok(words) = split(&line) {
                let bytes: usize = words.iter().map(String::len).sum();
                prop_assert!(bytes <= line.len());
            }
        }
    }
}
