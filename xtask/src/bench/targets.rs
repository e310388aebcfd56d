// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fast path must reach, in one place: 4 KiB, overhead above raw in instructions.

use super::cell::{Cell, PATTERNS};
use super::results::Results;

/// How far an overhead may go.
#[derive(Clone, Copy)]
enum Bound {
    /// Instructions.
    Insn(f64),
    /// A share of another path's overhead.
    Of(f64, &'static str),
}

use Bound::{Insn, Of};

/// A row: backings, path, patterns, and the bounds at queue depth 1 and at 16.
struct Target {
    what: &'static str,
    backings: &'static [&'static str],
    path: &'static str,
    patterns: &'static [&'static str],
    qd1: &'static [Bound],
    qd16: &'static [Bound],
}

const BLOCK: &[&str] = &["block"];
const FILES: &[&str] = &["ext4", "xfs"];
const ANY: &[&str] = &["block", "ext4", "xfs"];
const READ: &[&str] = &["randread"];
const WRITE: &[&str] = &["randwrite"];

const TARGETS: &[Target] = &[
    Target {
        what: "block device, mapped",
        backings: BLOCK,
        path: "mapped",
        patterns: &PATTERNS,
        qd1: &[Of(0.45, "dm-linear")],
        qd16: &[Of(0.45, "dm-linear")],
    },
    Target {
        what: "block device, tracked",
        backings: BLOCK,
        path: "tracked",
        patterns: &PATTERNS,
        qd1: &[Of(1.0, "dm-linear")],
        qd16: &[Of(1.0, "dm-linear")],
    },
    // Like is held against like: what tracking costs has a row of its own.
    Target {
        what: "block device, fixed cluster map, 1 M entries",
        backings: BLOCK,
        path: "cluster-fixed",
        patterns: &PATTERNS,
        qd1: &[Of(1.15, "mapped")],
        qd16: &[Of(1.15, "mapped")],
    },
    Target {
        what: "block device, cluster map, 1 M entries",
        backings: BLOCK,
        path: "cluster",
        patterns: &PATTERNS,
        qd1: &[Of(1.15, "tracked")],
        qd16: &[Of(1.15, "tracked")],
    },
    Target {
        what: "file, mapped, read (inline)",
        backings: FILES,
        path: "mapped",
        patterns: READ,
        qd1: &[Insn(2200.0), Of(0.2, "loop")],
        qd16: &[Insn(2200.0), Of(0.3, "loop")],
    },
    Target {
        what: "file, mapped, overwrite (inline)",
        backings: FILES,
        path: "mapped",
        patterns: WRITE,
        qd1: &[Insn(3000.0), Of(0.25, "loop")],
        qd16: &[Insn(3000.0)],
    },
    Target {
        what: "file, front opened O_EXCL (worker)",
        backings: FILES,
        path: "worker",
        patterns: &PATTERNS,
        qd1: &[Of(0.75, "loop")],
        qd16: &[Of(0.85, "loop")],
    },
    Target {
        what: "declined, copy",
        backings: ANY,
        path: "declined",
        patterns: &PATTERNS,
        qd1: &[Of(1.0, "rublk")],
        qd16: &[Of(1.0, "rublk")],
    },
    Target {
        what: "declined, forwarded",
        backings: ANY,
        path: "forward",
        patterns: &PATTERNS,
        qd1: &[Of(0.7, "rublk")],
        qd16: &[Of(0.7, "rublk")],
    },
];

/// What the front disk may add when no program is bound.
pub const FRONT_LIMIT: f64 = 600.0;

/// One bound on one cell, held against the figures.
pub struct Check {
    pub what: &'static str,
    pub cell: Cell,
    /// The cell's overhead, and the largest that is good: both in instructions.
    pub is: Option<f64>,
    pub may_be: Option<f64>,
    /// The bound in words.
    pub bound: String,
}

impl Check {
    /// None if a figure is missing.
    pub fn met(&self) -> Option<bool> {
        Some(self.is? <= self.may_be?)
    }
}

/// Every bound whose cell was asked for.
pub fn check(results: &Results) -> Vec<Check> {
    let mut checks = Vec::new();
    for target in TARGETS {
        for (backing, rw) in pairs(target.backings, target.patterns) {
            for (qd, bounds) in [(1, target.qd1), (16, target.qd16)] {
                let cell = Cell {
                    backing,
                    path: target.path,
                    rw,
                    bs: 4096,
                    engine: "io_uring",
                    qd,
                };
                if results.outcome(&cell).is_none() {
                    continue;
                }
                checks.extend(bounds.iter().map(|&bound| Check {
                    what: target.what,
                    cell,
                    is: results.overhead(&cell),
                    may_be: match bound {
                        Insn(most) => Some(most),
                        Of(share, peer) => {
                            results.overhead(&cell.at(peer)).map(|peer| share * peer)
                        }
                    },
                    bound: match bound {
                        Insn(most) => format!("{most:.0}"),
                        Of(share, peer) => format!("{share} x {peer}"),
                    },
                }));
            }
        }
    }
    checks
}

fn pairs<'a>(
    first: &'a [&'static str],
    second: &'a [&'static str],
) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
    first
        .iter()
        .flat_map(move |&a| second.iter().map(move |&b| (a, b)))
}

#[cfg(test)]
mod tests {
    use super::super::results::made_up;
    use super::*;

    fn verdicts(mapped: f64) -> Vec<Option<bool>> {
        let results = made_up("block/", |cell| match cell.path {
            "raw" => Some(7000.0),
            "dm-linear" => Some(9000.0),
            "mapped" => Some(7000.0 + mapped),
            _ => None,
        });
        let checks = check(&results);
        checks
            .iter()
            .filter(|check| check.cell.path == "mapped")
            .map(Check::met)
            .collect()
    }

    #[test]
    fn a_bound_is_a_share_of_the_overhead() {
        assert_eq!(verdicts(900.0), [Some(true); 4]);
        assert_eq!(verdicts(901.0), [Some(false); 4]);
    }

    #[test]
    fn a_missing_figure_is_neither_met_nor_missed() {
        let results = made_up("block/mapped/randread/4k/io_uring-1", |_| Some(1.0));
        assert!(check(&results).iter().all(|check| check.met().is_none()));
    }
}
