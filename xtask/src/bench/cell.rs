// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is measured: the cells, and which there are.

use serde_json::{json, Value};

/// What all paths lead to.
pub const BACKINGS: [&str; 3] = ["block", "ext4", "xfs"];
/// fio's words for the patterns.
pub const PATTERNS: [&str; 2] = ["randread", "randwrite"];
/// Engines with their queue depths.
pub const ENGINES: [(&str, u32); 3] = [("io_uring", 1), ("io_uring", 16), ("psync", 1)];
/// Bytes of an I/O.
pub const SIZES: [u32; 2] = [4096, 65536];

/// What overheads are above.
pub const RAW: &str = "raw";
/// What ubd is compared with, in the table's order.
pub const PEERS: [&str; 3] = ["dm-linear", "loop", "rublk"];
/// What only kernels have that let drivers register buffers with io_uring.
pub const ON_NEW: [&str; 1] = ["zero-copy"];
const ON_BLOCK: &[&str] = &[
    RAW,
    "dm-linear",
    "loop",
    "rublk",
    "mapped",
    "tracked",
    "cluster",
    "cluster-fixed",
    "declined",
    "noprog",
    "zero-copy",
    "forward",
];
const ON_FILE: &[&str] = &[
    RAW,
    "loop",
    "rublk",
    "mapped",
    "tracked",
    "worker",
    "declined",
    "noprog",
    "zero-copy",
    "forward",
];

/// The paths that a backing can have, in the table's order.
pub fn paths(backing: &str) -> &'static [&'static str] {
    match backing {
        "block" => ON_BLOCK,
        _ => ON_FILE,
    }
}

/// One figure: the price of one kind of I/O past one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Of [`BACKINGS`].
    pub backing: &'static str,
    /// Of [`paths`].
    pub path: &'static str,
    /// Of [`PATTERNS`].
    pub rw: &'static str,
    /// Bytes of an I/O.
    pub bs: u32,
    /// fio's engine.
    pub engine: &'static str,
    /// I/Os in flight.
    pub qd: u32,
}

impl Cell {
    /// `block/mapped/randread/4k/io_uring-1`: what filters look at.
    pub fn id(&self) -> String {
        let Cell {
            backing,
            path,
            rw,
            bs,
            engine,
            qd,
        } = self;
        format!("{backing}/{path}/{rw}/{}k/{engine}-{qd}", bs / 1024)
    }

    /// The same I/O past another path.
    pub fn at(self, path: &'static str) -> Cell {
        Cell { path, ..self }
    }

    /// How many I/Os make a figure good enough.
    pub fn ios(&self, quick: bool) -> u64 {
        match (self.bs, quick) {
            (4096, false) => 100_000,
            (4096, true) => 10_000,
            (_, false) => 10_000,
            (_, true) => 2_500,
        }
    }

    /// For the guest; `index` comes back with the result.
    pub fn job(&self, index: usize, quick: bool) -> Value {
        json!({
            "index": index, "path": self.path, "rw": self.rw, "bs": self.bs,
            "engine": self.engine, "qd": self.qd, "ios": self.ios(quick),
        })
    }
}

/// fio's clock ticks in milliseconds: the error of a figure of so many I/Os, in instructions.
pub fn error(ios: u64) -> f64 {
    1e6 / ios as f64
}

/// Every cell whose id has one of `filters` in it (all, if there are none), with the raw cells
/// that they are compared with; those of [`ON_NEW`] if the kernel is `new`.
pub fn plan(filters: &[String], new: bool) -> Vec<Cell> {
    let all: Vec<Cell> = every()
        .filter(|cell| new || !ON_NEW.contains(&cell.path))
        .collect();
    let wanted = |cell: &Cell| {
        let id = cell.id();
        filters.is_empty() || filters.iter().any(|filter| id.contains(filter.as_str()))
    };
    let chosen: Vec<Cell> = all.iter().copied().filter(wanted).collect();
    all.into_iter()
        .filter(|cell| {
            chosen.contains(cell)
                || cell.path == RAW && chosen.iter().any(|other| other.at(RAW) == *cell)
        })
        .collect()
}

/// In the order of measuring: what shares a machine, then what shares a path, follows each other.
fn every() -> impl Iterator<Item = Cell> {
    BACKINGS.into_iter().flat_map(|backing| {
        SIZES.into_iter().flat_map(move |bs| {
            paths(backing).iter().flat_map(move |&path| {
                ENGINES.into_iter().flat_map(move |(engine, qd)| {
                    PATTERNS.into_iter().map(move |rw| Cell {
                        backing,
                        path,
                        rw,
                        bs,
                        engine,
                        qd,
                    })
                })
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_brings_the_raw_cells_along() {
        let plan = plan(&["xfs/mapped/randread/4k/io_uring".into()], true);
        let ids: Vec<_> = plan.iter().map(Cell::id).collect();
        assert_eq!(
            ids,
            [
                "xfs/raw/randread/4k/io_uring-1",
                "xfs/raw/randread/4k/io_uring-16",
                "xfs/mapped/randread/4k/io_uring-1",
                "xfs/mapped/randread/4k/io_uring-16",
            ]
        );
    }

    #[test]
    fn no_filter_means_all() {
        let old = plan(&[], false).len();
        let plan = plan(&[], true);
        assert_eq!(plan.len(), (ON_BLOCK.len() + 2 * ON_FILE.len()) * 12);
        assert_eq!(old, plan.len() - 3 * ON_NEW.len() * 12);
        assert!(plan.iter().all(|cell| error(cell.ios(false)) <= 100.0));
    }
}
