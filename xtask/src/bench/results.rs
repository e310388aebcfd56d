// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came out, and what follows from it.

use anyhow::{Context, Result};
use serde_json::{json, Value};

use super::cell::{error, paths, Cell, ON_NEW, RAW};

/// One cell's end.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Instructions of one I/O, as the mean over `ios`.
    Measured { ios: u64, insn: f64 },
    /// Why there is no figure.
    Failed(String),
}

impl Outcome {
    /// From a line of the guest's results: the cell's index in the plan, and the outcome.
    pub fn parse(line: &str) -> Result<(usize, Outcome)> {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("failed to understand the guest's result `{line}`"))?;
        let index = value["index"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok());
        let index = index.with_context(|| format!("the result `{line}` has no index"))?;
        let outcome = match (value["ios"].as_u64(), value["insn"].as_f64()) {
            (Some(ios), Some(insn)) => Outcome::Measured { ios, insn },
            _ => Outcome::Failed(value["failed"].as_str().unwrap_or("no reason").to_owned()),
        };
        Ok((index, outcome))
    }
}

/// All cells of a run.
pub struct Results {
    pub cells: Vec<(Cell, Outcome)>,
}

impl Results {
    /// Instructions of one I/O; none if it was not measured.
    pub fn insn(&self, cell: &Cell) -> Option<f64> {
        match self.outcome(cell)? {
            Outcome::Measured { insn, .. } => Some(*insn),
            Outcome::Failed(_) => None,
        }
    }

    /// How it ended, if it was asked for.
    pub fn outcome(&self, cell: &Cell) -> Option<&Outcome> {
        let found = self.cells.iter().find(|(other, _)| other == cell);
        found.map(|(_, outcome)| outcome)
    }

    /// Instructions above the same I/O without anything between.
    pub fn overhead(&self, cell: &Cell) -> Option<f64> {
        Some(self.insn(cell)? - self.insn(&cell.at(RAW))?)
    }

    /// This overhead in terms of a peer's; none if one was not measured.
    pub fn ratio(&self, cell: &Cell, peer: &'static str) -> Option<f64> {
        Some(self.overhead(cell)? / self.overhead(&cell.at(peer))?)
    }

    /// What failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&Cell, &str)> {
        self.cells
            .iter()
            .filter_map(|(cell, outcome)| match outcome {
                Outcome::Failed(reason) => Some((cell, reason.as_str())),
                Outcome::Measured { .. } => None,
            })
    }

    /// The list of cells; one that failed has nulls and a reason.
    pub fn json(&self, kernel: &str) -> Value {
        let round = |figure: Option<f64>| figure.map(f64::round);
        let cell = |(cell, outcome): &(Cell, Outcome)| {
            let mut value = json!({
                "kernel": kernel,
                "backing": cell.backing,
                "path": cell.path,
                "rw": cell.rw,
                "bs": cell.bs,
                "engine": cell.engine,
                "qd": cell.qd,
                "insn_per_io": round(self.insn(cell)),
                "overhead": round(self.overhead(cell)),
            });
            match outcome {
                Outcome::Measured { ios, .. } => {
                    value["ios"] = json!(ios);
                    value["error"] = json!(error(*ios).round());
                }
                Outcome::Failed(reason) => value["failed"] = json!(reason),
            }
            value
        };
        self.cells.iter().map(cell).collect()
    }
}

impl Results {
    /// The paths of a backing that this kernel has, in the table's order.
    pub fn paths(&self, backing: &str) -> impl Iterator<Item = &'static str> + '_ {
        let measured = |path: &str| self.cells.iter().any(|(cell, _)| cell.path == path);
        let all = paths(backing).iter().copied();
        all.filter(move |path| !ON_NEW.contains(path) || measured(path))
    }
}

/// Results with made-up figures, for tests: every cell of the filter, as `insn` says.
#[cfg(test)]
pub fn made_up(filter: &str, insn: impl Fn(&Cell) -> Option<f64>) -> Results {
    let cells = super::cell::plan(&[filter.to_owned()], true);
    let outcome = |cell: &Cell| match insn(cell) {
        Some(insn) => Outcome::Measured { ios: 1000, insn },
        None => Outcome::Failed("it was to fail".into()),
    };
    Results {
        cells: cells.iter().map(|cell| (*cell, outcome(cell))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_has_no_figure_and_a_reason() {
        let results = made_up("block/loop/randread/4k/io_uring-1", |cell| {
            (cell.path == RAW).then_some(7000.4)
        });
        let json = results.json("6.12");
        assert_eq!(json[0]["insn_per_io"], 7000.0);
        assert_eq!(json[0]["overhead"], 0.0);
        assert_eq!(json[0]["error"], 1000.0);
        let failed = json
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["path"] == "loop");
        assert_eq!(failed.unwrap()["insn_per_io"], Value::Null);
        assert_eq!(failed.unwrap()["failed"], "it was to fail");
        assert!(results.failures().next().is_some());
    }

    #[test]
    fn lines_of_the_guest_are_understood() {
        let (index, outcome) = Outcome::parse(r#"{"index":7,"ios":10,"insn":12.5}"#).unwrap();
        assert!(index == 7 && matches!(outcome, Outcome::Measured { ios: 10, .. }));
        let (_, outcome) = Outcome::parse(r#"{"index":7,"failed":"why"}"#).unwrap();
        assert!(matches!(outcome, Outcome::Failed(why) if why == "why"));
        assert!(Outcome::parse("{}").is_err());
    }
}
