// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: what an I/O costs past each path, in instructions of the guest. Counted,
//! not timed: with `-icount` the guest's clock ticks once an instruction, so that fio's nanoseconds
//! are instructions, the same in every run. `docs/performance.md` has the method and its limits.
//!
//! ```text
//!  cell ─► machine ─► examples/bench in the guest ─► results ─► table, targets, chart, JSON
//!  (plan)  (boots)    (paths, fio)                      └─ missed ─► profile
//! ```

mod beside;
mod cell;
mod chart;
mod machine;
mod profile;
mod results;
mod run;
mod symbols;
mod table;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::host;
use crate::kernel::Kernel;
use crate::EXIT_USAGE;
use machine::Machines;

/// `cargo xtask bench`
#[derive(Args)]
pub struct BenchArgs {
    /// Fewer I/Os a cell, larger errors
    #[arg(long)]
    quick: bool,

    /// Write the list of cells to FILE too (it is always in target/bench/latest.json)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw the chart
    #[arg(long, value_name = "FILE.svg")]
    chart: Option<PathBuf>,

    /// Show where the instructions of each chosen 4 KiB cell go, not only of those that miss a target
    #[arg(long)]
    profile: bool,

    /// Machines that run at once [default: one a CPU]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Only cells with one of these in BACKING/PATH/PATTERN/SIZE/ENGINE-DEPTH, such as
    /// `block/mapped/randread/4k/io_uring-1`; nothing is measured beside them then
    filter: Vec<String>,
}

/// Measures, shows and stores; 1 if something could not be measured.
pub fn command(kernel: &Kernel, args: BenchArgs) -> Result<u8> {
    let plan = cell::plan(&args.filter, kernel.registers_buffers());
    if plan.is_empty() {
        eprintln!(
            "error: no cell has {} in its name; names look like block/mapped/randread/4k/io_uring-1",
            args.filter.join(" or ")
        );
        return Ok(EXIT_USAGE);
    }
    let machines = Machines::new(kernel, args.quick)?;
    let jobs = match args.jobs {
        Some(jobs) => jobs.max(1),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut run = run::Run::new(&machines, plan, args.filter.is_empty());
    run.measure(jobs);
    let checks = targets::check(&run.results);
    run.profile(&checks, args.profile);

    report(&run, &checks);
    store(&run, kernel, &args)?;
    Ok(u8::from(run.failed()))
}

fn report(run: &run::Run, checks: &[targets::Check]) {
    print!("{}", table::cells(&run.results));
    print!("{}", beside::text(&run.beside));
    print!("{}", table::targets(checks, &run.fronts()));
    for profile in &run.profiles {
        print!("\n{}", run.profile_text(profile, 16));
    }
    for (cell, reason) in run.results.failures() {
        println!("\nfailed: {}: {reason}", cell.id());
    }
    for problem in &run.problems {
        println!("\nfailed: {problem}");
    }
}

fn store(run: &run::Run, kernel: &Kernel, args: &BenchArgs) -> Result<()> {
    let dir = host::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("failed to create `{}`", dir.display()))?;
    let cells = pretty(&run.results.json(&kernel.version))?;
    write(&dir.join("latest.json"), &cells)?;
    write(&dir.join("beside.json"), &pretty(&run.beside)?)?;
    for profile in &run.profiles {
        let name = format!("profile-{}.txt", profile.cell.id().replace('/', "-"));
        write(&dir.join(name), &run.profile_text(profile, usize::MAX))?;
    }
    if let Some(path) = &args.json {
        write(path, &cells)?;
    }
    if let Some(path) = &args.chart {
        write(path, &chart::draw(&run.results, &kernel.version))?;
    }
    println!("\nThe cells are in {}", dir.join("latest.json").display());
    Ok(())
}

fn pretty(value: &Value) -> Result<String> {
    let text = match value {
        // A cell a line: easy to compare with the last run's.
        Value::Array(cells) => {
            let lines: Vec<_> = cells.iter().map(Value::to_string).collect();
            format!("[\n{}\n]", lines.join(",\n"))
        }
        other => serde_json::to_string_pretty(other)?,
    };
    Ok(text + "\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn the_list_of_cells_is_a_cell_a_line() {
        let results = results::made_up("block/mapped", |_| Some(1.0));
        let text = pretty(&results.json("6.12")).unwrap();
        assert_eq!(text.lines().count(), results.cells.len() + 2);
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, results.json("6.12"));
    }

    #[test]
    fn filters_follow_the_options() {
        let cli = Cli::parse_from(["bench", "--quick", "block/mapped", "xfs"]);
        assert!(cli.bench.quick && cli.bench.filter == ["block/mapped", "xfs"]);
    }
}
