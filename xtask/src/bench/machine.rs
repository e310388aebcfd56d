// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machines: which cells share a boot, and how their results come back while they run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::cell::Cell;
use super::results::Outcome;
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::{peer, programs, vm};

/// Longer means that the machine hangs.
const PATIENCE_SECONDS: u64 = 3600;

/// What every boot needs, built once.
pub struct Machines<'a> {
    kernel: &'a Kernel,
    bench: PathBuf,
    rublk: PathBuf,
    pub quick: bool,
}

/// A boot: the cells of one backing and one size, by their index in the plan.
pub struct Group {
    pub backing: &'static str,
    pub cells: Vec<usize>,
}

/// Cells that follow each other and share backing and size share a boot.
pub fn groups(plan: &[Cell]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut last = None;
    for (index, cell) in plan.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if last == Some((cell.backing, cell.bs)) => group.cells.push(index),
            _ => groups.push(Group {
                backing: cell.backing,
                cells: vec![index],
            }),
        }
        last = Some((cell.backing, cell.bs));
    }
    // The longest first, so that no machine runs alone at the end.
    groups.sort_by_key(|group| std::cmp::Reverse(group.cells.len()));
    groups
}

impl<'a> Machines<'a> {
    pub fn new(kernel: &'a Kernel, quick: bool) -> Result<Machines<'a>> {
        Ok(Machines {
            kernel,
            bench: programs::example("bench")?,
            rublk: peer::rublk()?,
            quick,
        })
    }

    /// A guest that has all programs.
    pub fn guest(&self) -> Result<Guest> {
        let guest = vm::with_ubd(Guest::new()?, self.kernel)?;
        guest.program(&self.bench)?;
        guest.program(&self.rublk)?;
        Ok(guest)
    }

    /// Writes the guest's plan: these cells of `plan`.
    pub fn write_plan(&self, guest: &Guest, plan: &[Cell], chosen: &[usize]) -> Result<()> {
        let jobs: Value = chosen
            .iter()
            .map(|&index| plan[index].job(index, self.quick))
            .collect();
        guest.write("plan.json", &jobs.to_string())
    }

    /// Boots and runs `bench WORDS`; fails unless it ends well and the kernel has no complaint.
    pub fn run(&self, guest: &Guest, machine: &vm::Machine, words: &str) -> Result<()> {
        let words: Vec<_> = format!("bench {words}")
            .split(' ')
            .map(Into::into)
            .collect();
        let code = vm::run(self.kernel, machine, guest, &words)?;
        ensure!(code == 0, "the machine ended with {code}");
        Ok(())
    }

    /// Measures a group; `done` gets every cell's outcome as it comes.
    pub fn measure(
        &self,
        plan: &[Cell],
        group: &Group,
        mut done: impl FnMut(usize, Outcome),
    ) -> Result<()> {
        let guest = self.guest()?;
        self.write_plan(&guest, plan, &group.cells)?;
        let results = guest.dir.join("out/results.jsonl");
        thread::scope(|scope| {
            let machine =
                scope.spawn(|| self.run(&guest, &counting(), &format!("cells {}", group.backing)));
            let mut lines = Lines::new(&results);
            loop {
                // Asked first: what it wrote before its end is still read.
                let over = machine.is_finished();
                while let Some(line) = lines.next()? {
                    let (index, outcome) = Outcome::parse(&line)?;
                    done(index, outcome);
                }
                if over {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
            joined(machine)
        })
    }
}

/// The result of a thread that ran a machine.
pub fn joined(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow::anyhow!("the thread of a machine panicked")))
}

/// One CPU whose clock ticks once an instruction.
pub fn counting() -> vm::Machine {
    vm::Machine {
        icount: true,
        ..timed(1)
    }
}

/// So many CPUs, and a clock like any other.
pub fn timed(cpus: u32) -> vm::Machine {
    vm::Machine {
        cpus,
        timeout: Some(PATIENCE_SECONDS),
        ..vm::Machine::usual()
    }
}

/// The lines of a file that somebody else still writes, and may not have begun.
struct Lines<'a> {
    path: &'a Path,
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not there yet.
    line: String,
}

impl<'a> Lines<'a> {
    fn new(path: &'a Path) -> Lines<'a> {
        Lines {
            path,
            file: None,
            line: String::new(),
        }
    }

    /// The next whole line, if there is one now.
    fn next(&mut self) -> Result<Option<String>> {
        if self.file.is_none() {
            self.file = File::open(self.path).ok().map(BufReader::new);
        }
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        file.read_line(&mut self.line)
            .with_context(|| format!("failed to read `{}`", self.path.display()))?;
        if !self.line.ends_with('\n') {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cell::plan;
    use super::*;
    use std::io::Write;

    #[test]
    fn groups_cover_the_plan_once() {
        let plan = plan(&[], true);
        let groups = groups(&plan);
        assert_eq!(groups.len(), 6);
        let mut all: Vec<_> = groups.iter().flat_map(|group| &group.cells).collect();
        all.sort();
        assert!(all.into_iter().copied().eq(0..plan.len()));
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let path = std::env::temp_dir().join(format!("xtask-lines-{}", std::process::id()));
        let mut lines = Lines::new(&path);
        assert_eq!(lines.next().unwrap(), None);
        let mut file = File::create(&path).unwrap();
        write!(file, "one\ntw").unwrap();
        assert_eq!(lines.next().unwrap().as_deref(), Some("one\n"));
        assert_eq!(lines.next().unwrap(), None);
        writeln!(file, "o").unwrap();
        assert_eq!(lines.next().unwrap().as_deref(), Some("two\n"));
        std::fs::remove_file(&path).unwrap();
    }
}
