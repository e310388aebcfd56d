// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as a drawing: a plain SVG that reads well on light and on dark ground.

use std::fmt::Write;

use super::cell::{Cell, PATTERNS, RAW};
use super::results::Results;
use super::table::{backing_name, thousands};

const WIDTH: f64 = 860.0;
const PANEL: f64 = WIDTH / 2.0;
const LABEL: f64 = 100.0;
/// Room for the number behind the longest bar.
const NUMBER: f64 = 60.0;
const BAR: f64 = 9.0;
const ROW: f64 = 27.0;
const HEAD: f64 = 34.0;
const TITLE: f64 = 66.0;

/// Middle tones, so that they do without knowing the ground; where it is known they fit it.
const STYLE: &str = "
text { font: 12px system-ui, sans-serif; fill: #59636e }
.title { font-size: 15px; font-weight: 600 }
.panel { font-weight: 600 }
.number { font-size: 10px }
.ours { font-weight: 600 }
.ubd.randread { fill: #1f78b4 } .ubd.randwrite { fill: #6aaad6 }
.peer.randread { fill: #8c959f } .peer.randwrite { fill: #b9c0c8 }
@media (prefers-color-scheme: dark) {
text { fill: #b1bac4 }
.peer.randread { fill: #768390 } .peer.randwrite { fill: #545d68 }
.ubd.randread { fill: #4c9fd8 } .ubd.randwrite { fill: #2f6f9f }
}";

/// Overheads of io_uring at 4 KiB: block device and ext4 file, queue depths 1 and 16.
pub fn draw(results: &Results, kernel: &str) -> String {
    let rows = |backing: &str| results.paths(backing).count() - 1;
    let heights = ["block", "ext4"].map(|backing| HEAD + rows(backing) as f64 * ROW);
    let height = TITLE + heights.iter().sum::<f64>() + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Guest instructions per 4 KiB I/O above raw, by path</title>\n\
         <style>{STYLE}\n</style>\n\
         <text class=\"title\" x=\"8\" y=\"22\">Guest instructions per 4 KiB I/O above raw \
         (io_uring, Linux {kernel})</text>\n"
    );
    for (at, (class, label)) in [
        ("ubd randread", "ubd, random read"),
        ("ubd randwrite", "ubd, random write"),
        ("peer randread", "others, read"),
        ("peer randwrite", "others, write"),
    ]
    .into_iter()
    .enumerate()
    {
        let x = 8.0 + at as f64 * 150.0;
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"36\" width=\"10\" height=\"10\" rx=\"2\"/>\n\
             <text x=\"{}\" y=\"45\">{label}</text>\n",
            x + 15.0
        );
    }
    let mut top = TITLE;
    for (backing, height) in ["block", "ext4"].into_iter().zip(heights) {
        // One scale for both depths of a backing, so that they compare.
        let scale = (PANEL - LABEL - NUMBER) / largest(results, backing);
        for (at, qd) in [1, 16].into_iter().enumerate() {
            svg += &panel(results, backing, qd, at as f64 * PANEL, top, scale);
        }
        top += height;
    }
    svg + "</svg>\n"
}

fn cell(backing: &'static str, path: &'static str, rw: &'static str, qd: u32) -> Cell {
    Cell {
        backing,
        path,
        rw,
        bs: 4096,
        engine: "io_uring",
        qd,
    }
}

fn largest(results: &Results, backing: &'static str) -> f64 {
    let all = results.paths(backing).flat_map(|path| {
        PATTERNS
            .into_iter()
            .flat_map(move |rw| [1, 16].map(|qd| cell(backing, path, rw, qd)))
    });
    all.filter_map(|cell| results.overhead(&cell))
        .fold(1.0, f64::max)
}

/// The paths of one backing at one depth; a figure that is missing says so.
fn panel(
    results: &Results,
    backing: &'static str,
    qd: u32,
    left: f64,
    top: f64,
    scale: f64,
) -> String {
    let mut svg = format!(
        "<text class=\"panel\" x=\"{}\" y=\"{}\">{}, queue depth {qd}</text>\n",
        left + 8.0,
        top + 18.0,
        backing_name(backing)
    );
    let others = results.paths(backing).filter(|path| *path != RAW);
    for (row, path) in others.enumerate() {
        let y = top + HEAD + row as f64 * ROW;
        let ours = !super::cell::PEERS.contains(&path);
        let _ = writeln!(
            svg,
            "<text class=\"{}\" text-anchor=\"end\" x=\"{}\" y=\"{}\">{path}</text>",
            if ours { "ours" } else { "" },
            left + LABEL - 6.0,
            y + BAR + 4.0
        );
        for (at, rw) in PATTERNS.into_iter().enumerate() {
            let y = y + at as f64 * (BAR + 2.0);
            let overhead = results.overhead(&cell(backing, path, rw, qd));
            let length = overhead.map_or(0.0, |overhead| (overhead * scale).max(1.0));
            let _ = write!(
                svg,
                "<rect class=\"{} {rw}\" x=\"{}\" y=\"{y:.1}\" width=\"{length:.1}\" \
                 height=\"{BAR}\" rx=\"1.5\"/>\n\
                 <text class=\"number\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                if ours { "ubd" } else { "peer" },
                left + LABEL,
                left + LABEL + length + 4.0,
                y + BAR - 1.0,
                overhead.map_or("not measured".into(), thousands)
            );
        }
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::super::results::made_up;
    use super::*;

    #[test]
    fn bars_are_to_scale_and_inside() {
        let results = made_up("block/", |cell| match cell.path {
            "raw" => Some(7000.0),
            "rublk" => Some(27_000.0),
            "mapped" => Some(8000.0),
            _ => None,
        });
        let svg = draw(&results, "6.12");
        let bars: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"9\""))
            .filter_map(|line| {
                line.split("width=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let longest = bars.iter().copied().fold(0.0, f64::max);
        assert_eq!(longest, PANEL - LABEL - NUMBER);
        assert!(bars.iter().any(|bar| (bar * 20.0 - longest).abs() < 2.0));
        assert!(svg.contains("not measured") && svg.contains(">20 000<"));
    }
}
