// SPDX-License-Identifier: MIT OR Apache-2.0
//! Output: lines, tables, JSON.

use crate::cli;
use crate::error::Result;
use serde_json::{json, Value};

/// Prints one line.
pub fn line(text: &str) -> Result<()> {
    cli::print(&format!("{text}\n"))
}

/// Prints `value` under `key`, beside the version of the format.
pub fn document(key: &str, value: Value) -> Result<()> {
    cli::print_json(&json!({ "version": 1, key: value }))
}

/// Prints rows in columns.
pub fn table(rows: &[Vec<String>]) -> Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| {
        rows.iter()
            .filter_map(|row| Some(row.get(i)?.chars().count()))
            .max()
    };
    let widths: Vec<_> = (0..columns).map(|i| width(i).unwrap_or(0)).collect();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
