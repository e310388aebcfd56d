// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables for people and for scripts.

use std::fmt::Write;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under aligned headings; an empty cell is shown as `-`.
pub(crate) fn aligned(columns: &[(&str, Align)], rows: &[Vec<String>], headings: bool) -> String {
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines: Vec<&Vec<String>> = headings.then_some(&head).into_iter().chain(rows).collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| shown(&line[column]).chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for ((cell, (_, align)), width) in line.iter().zip(columns).zip(&widths) {
            // Writing to a String cannot fail.
            let _ = match align {
                Align::Left => write!(text, "{:<width$}  ", shown(cell)),
                Align::Right => write!(text, "{:>width$}  ", shown(cell)),
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// One blank between cells; blanks in a cell are written as `\x20`.
pub(super) fn raw(columns: &[(&str, Align)], rows: &[Vec<String>], headings: bool) -> String {
    let head: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let lines = headings.then_some(&head).into_iter().chain(rows);
    lines
        .map(|line| {
            line.iter()
                .map(|cell| escape(shown(cell)))
                .collect::<Vec<_>>()
                .join(" ")
                + "\n"
        })
        .collect()
}

fn shown(cell: &str) -> &str {
    if cell.is_empty() {
        "-"
    } else {
        cell
    }
}

fn escape(cell: &str) -> String {
    cell.chars()
        .map(|c| match c {
            c if c.is_whitespace() || c.is_control() || c == '\\' => {
                format!("\\x{:02x}", u32::from(c))
            }
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [(&str, Align); 2] = [("NAME", Align::Left), ("SIZE", Align::Right)];

    fn rows() -> Vec<Vec<String>> {
        vec![
            vec!["a b".into(), "1".into()],
            vec![String::new(), "100000".into()],
        ]
    }

    #[test]
    fn columns_line_up() {
        assert_eq!(
            aligned(&COLUMNS, &rows(), true),
            "NAME    SIZE\na b        1\n-     100000\n"
        );
    }

    #[test]
    fn raw_cells_have_no_blanks() {
        assert_eq!(raw(&COLUMNS, &rows(), false), "a\\x20b 1\n- 100000\n");
    }
}
