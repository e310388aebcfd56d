// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of a mutant: read from what the tests printed and from the kernel's log.

use crate::log_scan;

#[derive(Debug, PartialEq)]
pub enum Outcome {
    Caught {
        by: String,
        how: String,
    },
    Survived,
    /// Nothing is said about the guard, because of this.
    Unknown(String),
}

/// One driver's part of what a machine printed.
#[derive(Debug, PartialEq)]
pub struct Section<'a> {
    pub name: &'a str,
    lines: Vec<&'a str>,
    /// What the test program ended with; none if the machine ended first.
    code: Option<u8>,
}

/// The parts of what a machine printed, one for each driver that it began with.
pub fn sections(printed: &str) -> Vec<Section<'_>> {
    let mut all: Vec<Section> = Vec::new();
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix("== begin ") {
            all.push(Section {
                name,
                lines: Vec::new(),
                code: None,
            });
        } else if let Some(section) = all.last_mut() {
            match line.strip_prefix("== end ") {
                Some(code) => section.code = code.parse().ok(),
                None => section.lines.push(line),
            }
        }
    }
    all
}

/// `timeout`'s exit codes: the program was ended, or killed.
const TIMED_OUT: [Option<u8>; 2] = [Some(124), Some(137)];

/// How the line of a result begins.
const RESULTS: [&str; 3] = ["ok (", "FAILED (", "SKIP: "];

/// What happens before the tests that were asked for.
const BEFORE: [&str; 2] = ["module/refuses_without_btf", "module/load"];

impl Section<'_> {
    /// `log` is the machine's kernel log.
    pub fn outcome(&self, filters: &[String], log: &str) -> Outcome {
        let results = self.results();
        let failed = results
            .iter()
            .find(|(_, result, _)| result.starts_with("FAILED"));
        if let Some((test, _, at)) = failed {
            if BEFORE.contains(test) {
                return Outcome::Unknown(format!("{test} has failed"));
            }
            return Outcome::Caught {
                by: (*test).to_owned(),
                how: self.message(at + 1),
            };
        }
        let wanted = |test: &str| filters.iter().any(|filter| test.contains(filter.as_str()));
        // A test that has begun and not ended was the last one.
        let last = results.last().filter(|(_, result, _)| result.is_empty());
        let complaint = log_scan::first(self.part_of(log));
        let passed = results
            .iter()
            .any(|(test, result, _)| wanted(test) && result.starts_with("ok"));
        let said = |line| Outcome::Caught {
            by: filters.join(" "),
            how: format!("the kernel: {line}"),
        };
        let Some((test, _, _)) = last else {
            return match (self.code, complaint) {
                // What was printed last went with the machine.
                (None, Some(line)) if results.len() >= BEFORE.len() => said(line),
                // The kernel may have said so when the test had ended.
                (Some(0), Some(line)) if passed => said(line),
                (Some(0), None) if passed => Outcome::Survived,
                (Some(0), _) => Outcome::Unknown("none of its tests was run".to_owned()),
                (Some(code), _) => Outcome::Unknown(format!("the tests ended with {code}")),
                (None, _) => Outcome::Unknown("the machine has ended".to_owned()),
            };
        };
        if BEFORE.contains(test) {
            return Outcome::Unknown(format!("{test} has not ended"));
        }
        let how = match complaint {
            Some(line) => format!("the kernel: {line}"),
            None if TIMED_OUT.contains(&self.code) => "it hangs".to_owned(),
            None => "the machine hangs".to_owned(),
        };
        Outcome::Caught {
            by: (*test).to_owned(),
            how,
        }
    }

    /// What the kernel logged while this driver was tried.
    fn part_of<'a>(&self, log: &'a str) -> &'a str {
        let begins = format!("mutant {} begins", self.name);
        let log = log.split_once(&begins).map_or("", |(_, log)| log);
        log.split_once("] mutant ").map_or(log, |(log, _)| log)
    }

    /// Each test with its result, empty if it has none, and the number of the line of that, which
    /// comes behind what the test itself has printed.
    fn results(&self) -> Vec<(&str, &str, usize)> {
        let mut results: Vec<(&str, &str, usize)> = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let begun = line
                .strip_prefix("test ")
                .and_then(|l| l.split_once(" ..."));
            if let Some((test, _)) = begun {
                results.push((test, "", at));
            }
            let result = begun.map_or(*line, |(_, rest)| rest.trim());
            let is_result = RESULTS.iter().any(|word| result.starts_with(word));
            if let Some(last) = results.last_mut().filter(|_| is_result) {
                (last.1, last.2) = (result, at);
            }
        }
        results
    }

    /// The first line of an error; the kernel's own words if it was the kernel.
    fn message(&self, at: usize) -> String {
        let mut lines = self.lines.iter().skip(at);
        let first = lines.next().copied().unwrap_or_default();
        if !first.starts_with("the kernel complained") {
            return first.to_owned();
        }
        let rest = lines.take(30).copied().collect::<Vec<_>>().join("\n");
        let said = log_scan::first(&rest).unwrap_or_default();
        format!("the kernel: {said}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOADED: &str =
        "test module/refuses_without_btf ... ok (4.5 s)\ntest module/load ... ok (1.0 s)\n";

    fn outcome(rest: &str, log: &str) -> Outcome {
        let printed = format!("noise\n== begin a\n== end 0\n== begin b\n{LOADED}{rest}");
        let sections = sections(&printed);
        assert_eq!(sections.len(), 2);
        sections[1].outcome(&["flush/fua".to_owned()], log)
    }

    fn caught(by: &str, how: &str) -> Outcome {
        Outcome::Caught {
            by: by.to_owned(),
            how: how.to_owned(),
        }
    }

    #[test]
    fn a_failed_test_catches() {
        let rest = "test flush/fua ... FAILED (1.0 s)\nno FUA\n\nCaused by: x\n== end 1\n";
        assert_eq!(outcome(rest, ""), caught("flush/fua", "no FUA"));
    }

    #[test]
    fn a_test_may_print_before_its_result() {
        let rest = "test flush/fua ... 5 writes\nand a line\nFAILED (1.0 s)\nno FUA\n== end 1\n";
        assert_eq!(outcome(rest, ""), caught("flush/fua", "no FUA"));
        let rest = "test flush/fua ... \n5 writes\nok (1.0 s)\n== end 0\n";
        assert_eq!(outcome(rest, ""), Outcome::Survived);
        let rest = "test flush/fua ... 5 writes\n== end 124\n";
        assert_eq!(outcome(rest, ""), caught("flush/fua", "it hangs"));
    }

    #[test]
    fn so_does_what_the_kernel_says() {
        let rest = "test flush/fua ... FAILED (1.0 s)\nthe kernel complained:\nquiet\nBUG: KASAN: x\n== end 1\n";
        let how = "the kernel: BUG: KASAN: x";
        assert_eq!(outcome(rest, ""), caught("flush/fua", how));
        let log = "BUG: of another\nmutant b begins\nquiet\n[ 1.0] BUG: KASAN: x\n";
        assert_eq!(
            outcome("test flush/fua ... ", log),
            caught("flush/fua", how)
        );
        let passes = "test flush/fua ... ok (1.0 s)\n== end 0\n";
        assert_eq!(outcome(passes, log), caught("flush/fua", how));
        let log = "[ 0.5] mutant b begins\nquiet\n[ 1.0] mutant c begins\n[ 1.0] BUG: KASAN: x\n";
        assert_eq!(outcome(passes, log), Outcome::Survived);
    }

    #[test]
    fn so_does_a_machine_that_ends_at_once() {
        let log = "mutant b begins\n[ 1.0] BUG: x\n";
        assert_eq!(outcome("", log), caught("flush/fua", "the kernel: BUG: x"));
    }

    #[test]
    fn so_does_a_hang() {
        let rest = "test flush/fua ... \n\n== end 124\n";
        assert_eq!(outcome(rest, ""), caught("flush/fua", "it hangs"));
        assert_eq!(
            outcome("test flush/fua ... ", ""),
            caught("flush/fua", "the machine hangs")
        );
    }

    #[test]
    fn what_passes_survives() {
        let rest = "test flush/fua ... ok (1.0 s)\n== end 0\n";
        assert_eq!(outcome(rest, ""), Outcome::Survived);
    }

    #[test]
    fn what_was_not_tried_is_not_caught() {
        for rest in [
            "== end 0\n",
            "== end 124\n",
            "",
            "test flush/fua ... SKIP: no\n== end 0\n",
            "test flush/other ... ok (1.0 s)\n== end 0\n",
        ] {
            assert!(matches!(outcome(rest, ""), Outcome::Unknown(_)), "{rest}");
        }
        let printed = "== begin a\ntest module/refuses_without_btf ... ok\ntest module/load ... FAILED (1 s)\nno\n== end 1\n";
        let outcome = sections(printed)[0].outcome(&["flush/fua".to_owned()], "");
        assert!(matches!(outcome, Outcome::Unknown(_)));
    }
}
