// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as text: overheads and ratios, and what was to be reached.

use std::fmt::Write;

use super::cell::{error, paths, Cell, BACKINGS, ENGINES, PATTERNS, PEERS, RAW, SIZES};
use super::results::{Outcome, Results};
use super::targets::{Check, FRONT_LIMIT};

const LABEL: usize = 26;
/// What is to be reached.
const WHAT: usize = 46;
const COLUMN: usize = 10;

/// How a backing is called in headings.
pub fn backing_name(backing: &str) -> &str {
    match backing {
        "block" => "block device (RAM disk)",
        "ext4" => "ext4 file",
        "xfs" => "xfs file",
        other => other,
    }
}

/// A table for each backing and size that something was measured of.
pub fn cells(results: &Results) -> String {
    let mut text = String::new();
    for backing in BACKINGS {
        for bs in SIZES {
            text += &table(results, backing, bs).unwrap_or_default();
        }
    }
    text
}

/// The six columns of a path: each engine's patterns.
fn columns(backing: &'static str, path: &'static str, bs: u32) -> Vec<Cell> {
    let column = |(engine, qd)| {
        PATTERNS.map(|rw| Cell {
            backing,
            path,
            rw,
            bs,
            engine,
            qd,
        })
    };
    ENGINES.into_iter().flat_map(column).collect()
}

fn table(results: &Results, backing: &'static str, bs: u32) -> Option<String> {
    let ios = results
        .cells
        .iter()
        .find_map(|(cell, outcome)| match outcome {
            Outcome::Measured { ios, .. } if cell.backing == backing && cell.bs == bs => Some(*ios),
            _ => None,
        });
    let asked = |path| {
        let columns = columns(backing, path, bs);
        columns.iter().any(|cell| results.outcome(cell).is_some())
    };
    if !asked(RAW) {
        return None;
    }
    let mut text = format!(
        "\n{}, {} KiB: guest instructions per I/O above raw",
        backing_name(backing),
        bs / 1024
    );
    if let Some(ios) = ios {
        // A difference has the errors of both.
        text += &format!(" ({ios} I/Os a cell, ±{:.0})", 2.0 * error(ios));
    }
    text += &format!("\n{:LABEL$}", "");
    for (engine, qd) in ENGINES {
        let name = match engine {
            "psync" => "psync".to_owned(),
            _ => format!("{engine} QD{qd}"),
        };
        text += &format!("{name:>width$}", width = 2 * COLUMN);
    }
    text += &format!("\n{:LABEL$}", "");
    for _ in ENGINES {
        text += &format!("{:>COLUMN$}{:>COLUMN$}", "read", "write");
    }
    text.push('\n');
    for &path in paths(backing).iter().filter(|path| asked(path)) {
        let label = if path == RAW { "raw (all of it)" } else { path };
        let figures = columns(backing, path, bs);
        text += &line(label, figures.iter().map(|cell| figure(results, cell)));
    }
    for &path in paths(backing).iter().filter(|path| asked(path)) {
        if path == RAW || PEERS.contains(&path) {
            continue;
        }
        for peer in PEERS.into_iter().filter(|peer| asked(peer)) {
            let label = format!("{path} / {peer}");
            let figures = columns(backing, path, bs);
            text += &line(
                &label,
                figures.iter().map(|cell| ratio(results, cell, peer)),
            );
        }
    }
    Some(text)
}

fn line(label: &str, figures: impl Iterator<Item = String>) -> String {
    let mut line = format!("{label:<LABEL$}");
    // A label that is too long takes from the first column.
    let mut room = (LABEL + COLUMN).saturating_sub(label.len().max(LABEL));
    for figure in figures {
        let _ = write!(line, "{figure:>room$}");
        room = COLUMN;
    }
    line + "\n"
}

fn figure(results: &Results, cell: &Cell) -> String {
    match results.outcome(cell) {
        None => "-".into(),
        Some(Outcome::Failed(_)) => "failed".into(),
        Some(Outcome::Measured { insn, .. }) if cell.path == RAW => thousands(*insn),
        Some(_) => results.overhead(cell).map_or("-".into(), signed),
    }
}

/// Above 1 the peer is cheaper: marked.
fn ratio(results: &Results, cell: &Cell, peer: &'static str) -> String {
    match results.ratio(cell, peer) {
        None => "-".into(),
        Some(ratio) if ratio > 1.0 => format!("!{ratio:.2}"),
        Some(ratio) => format!("{ratio:.2}"),
    }
}

/// `12 345`
pub fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if number < -0.5 {
        text.insert(0, '-');
    }
    text
}

/// `+12 345`
fn signed(number: f64) -> String {
    let text = thousands(number);
    if text.starts_with('-') {
        text
    } else {
        format!("+{text}")
    }
}

/// What was to be reached. `fronts`: the front disk's instructions without a program, by pattern.
pub fn targets(checks: &[Check], fronts: &[(&str, f64)]) -> String {
    let mut text = format!(
        "\nTo be reached (io_uring, 4 KiB, overhead above raw)\n{:<WHAT$}{:<22}{:>8}{:>9}  {}\n",
        "", "", "is", "may be", "bound"
    );
    let verdict = |met| match met {
        Some(true) => "met",
        Some(false) => "MISSED !",
        None => "not measured",
    };
    let number = |figure: Option<f64>| figure.map_or("-".into(), thousands);
    for check in checks {
        let cell = &check.cell;
        let _ = writeln!(
            text,
            "{:<WHAT$}{:<22}{:>8}{:>9}  {:<16} {}",
            check.what,
            format!("{} {} QD{}", cell.backing, cell.rw, cell.qd),
            number(check.is),
            number(check.may_be),
            check.bound,
            verdict(check.met())
        );
    }
    for (rw, insn) in fronts {
        let _ = writeln!(
            text,
            "{:<WHAT$}{:<22}{:>8}{:>9}  {:<16} {}",
            "no program bound, the front disk adds",
            format!("block {rw} QD1"),
            thousands(*insn),
            thousands(FRONT_LIMIT),
            thousands(FRONT_LIMIT),
            verdict(Some(*insn <= FRONT_LIMIT))
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::results::made_up;
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(7.4), "7");
        assert_eq!(thousands(1234.0), "1 234");
        assert_eq!(signed(1_234_567.0), "+1 234 567");
        assert_eq!(signed(-1234.0), "-1 234");
    }

    #[test]
    fn a_lost_cell_is_marked_and_a_failed_one_shown() {
        let results = made_up("block/", |cell| match cell.path {
            "raw" => Some(7000.0),
            "dm-linear" => Some(8000.0),
            "loop" => None,
            "mapped" => Some(7500.0),
            _ => Some(9000.0),
        });
        let text = cells(&results);
        let row = |label: &str| {
            let line = text.lines().find(|line| line.starts_with(label)).unwrap();
            line[label.len()..]
                .split_whitespace()
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(row("mapped / dm-linear"), "0.50");
        assert_eq!(row("tracked / dm-linear"), "!2.00");
        assert_eq!(row("mapped / loop"), "-");
        assert_eq!(row("loop"), "failed");
    }
}
