// SPDX-License-Identifier: MIT OR Apache-2.0
//! One run: the machines side by side, progress on the way, and all that came out.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{mpsc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{json, Value};

use super::cell::{Cell, BACKINGS};
use super::machine::{groups, Group, Machines};
use super::profile::{self, Profile};
use super::results::{Outcome, Results};
use super::targets::Check;
use super::{beside, table};

/// A run and its findings.
pub struct Run<'a> {
    machines: &'a Machines<'a>,
    /// Whether everything is measured, or only some cells.
    everything: bool,
    pub results: Results,
    /// `devices` and `wall`.
    pub beside: Value,
    pub profiles: Vec<Profile>,
    /// What failed that is no cell.
    pub problems: Vec<String>,
}

/// What a machine is started for.
enum Task {
    Cells(Group),
    Devices,
}

/// What a machine's thread has to say.
enum News {
    Cell(usize, Outcome),
    Devices(Value),
    Failed(String),
}

impl<'a> Run<'a> {
    pub fn new(machines: &'a Machines<'a>, plan: Vec<Cell>, everything: bool) -> Run<'a> {
        let unmeasured = |cell| (cell, Outcome::Failed("its machine ended too early".into()));
        Run {
            machines,
            everything,
            results: Results {
                cells: plan.into_iter().map(unmeasured).collect(),
            },
            beside: json!({}),
            profiles: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Whether something was asked for and is missing.
    pub fn failed(&self) -> bool {
        !self.problems.is_empty() || self.results.failures().next().is_some()
    }

    /// Measures all cells, and what is beside them, `jobs` machines at a time.
    pub fn measure(&mut self, jobs: usize) {
        let plan: Vec<Cell> = self.results.cells.iter().map(|(cell, _)| *cell).collect();
        let mut tasks: VecDeque<Task> = groups(&plan).into_iter().map(Task::Cells).collect();
        if self.everything {
            tasks.push_back(Task::Devices);
        }
        let tasks = Mutex::new(tasks);
        let progress = Progress::new(plan.len());
        let (tell, news) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..jobs {
                let (tell, tasks, plan, machines) = (tell.clone(), &tasks, &plan, self.machines);
                scope.spawn(move || {
                    // The lock is held for the taking alone.
                    while let Some(task) = take(tasks) {
                        work(machines, plan, task, &tell);
                    }
                });
            }
            drop(tell);
            for news in news {
                match news {
                    News::Cell(index, outcome) => {
                        progress.tell(&plan[index], &outcome);
                        if let Some((_, place)) = self.results.cells.get_mut(index) {
                            *place = outcome;
                        }
                    }
                    News::Devices(value) => self.beside["devices"] = value,
                    News::Failed(problem) => {
                        progress.say(&problem);
                        self.problems.push(problem);
                    }
                }
            }
        });
        progress.end();
        // Alone: it measures time.
        if self.everything {
            match beside::wall(self.machines) {
                Ok(value) => self.beside["wall"] = value,
                Err(error) => self
                    .problems
                    .push(problem("time with several CPUs", &error)),
            }
        }
    }

    /// Profiles what misses a target, what declines without a program, and, with `all`, every
    /// 4 KiB cell through io_uring.
    pub fn profile(&mut self, checks: &[Check], all: bool) {
        let missed = |cell: &Cell| {
            checks
                .iter()
                .any(|check| check.cell == *cell && check.met() == Some(false))
        };
        let of_io_uring = |cell: &Cell| cell.bs == 4096 && cell.engine == "io_uring";
        let front = |cell: &Cell| (cell.backing, cell.path, cell.qd) == ("block", "noprog", 1);
        let chosen: Vec<Cell> = self
            .results
            .cells
            .iter()
            .map(|(cell, _)| *cell)
            .filter(of_io_uring)
            .filter(|cell| self.results.insn(cell).is_some())
            .filter(|cell| all || front(cell) || missed(cell))
            .collect();
        for backing in BACKINGS {
            let mut cells = chosen.clone();
            cells.retain(|cell| cell.backing == backing);
            if cells.is_empty() {
                continue;
            }
            eprintln!("xtask: profiling {} cells of {backing} ...", cells.len());
            match profile::run(self.machines, backing, &cells) {
                Ok(profiles) => self.profiles.extend(profiles),
                Err(error) => self.problems.push(problem("profiling", &error)),
            }
        }
    }

    /// What the front disk adds when no program is bound, by pattern.
    pub fn fronts(&self) -> Vec<(&'static str, f64)> {
        let noprog = self
            .profiles
            .iter()
            .filter(|profile| profile.cell.path == "noprog" && profile.cell.qd == 1);
        noprog
            .filter_map(|profile| Some((profile.cell.rw, profile.front?)))
            .collect()
    }

    /// The `most` dearest functions of a profile, in instructions per I/O.
    pub fn profile_text(&self, profile: &Profile, most: usize) -> String {
        let insn = self.results.insn(&profile.cell).unwrap_or(0.0);
        let mut text = format!(
            "{}: where {} instructions go\n",
            profile.cell.id(),
            table::thousands(insn)
        );
        for (name, share) in profile.functions.iter().take(most) {
            let _ = writeln!(text, "{:>8}  {name}", table::thousands(share * insn));
        }
        text
    }
}

fn take(tasks: &Mutex<VecDeque<Task>>) -> Option<Task> {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    tasks.pop_front()
}

/// Runs a machine; a listener who has gone needs no news.
fn work(machines: &Machines, plan: &[Cell], task: Task, tell: &mpsc::Sender<News>) {
    let result: Result<()> = match &task {
        Task::Cells(group) => machines.measure(plan, group, |index, outcome| {
            let _ = tell.send(News::Cell(index, outcome));
        }),
        Task::Devices => beside::devices(machines).map(|value| {
            let _ = tell.send(News::Devices(value));
        }),
    };
    if let Err(error) = result {
        let what = match task {
            Task::Cells(group) => format!("the machine for {}", group.backing),
            Task::Devices => "measuring idle devices".to_owned(),
        };
        let _ = tell.send(News::Failed(problem(&what, &error)));
    }
}

fn problem(what: &str, error: &Error) -> String {
    format!("{what}: {error:#}")
}

/// A bar on a terminal, a line a cell elsewhere.
struct Progress(ProgressBar);

impl Progress {
    fn new(cells: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(cells as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(
            "{bar:30} {pos}/{len} cells, {elapsed} of about {duration}  {msg}",
        ) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress(bar)
    }

    fn tell(&self, cell: &Cell, outcome: &Outcome) {
        let text = match outcome {
            Outcome::Measured { insn, .. } => format!("{}: {}", cell.id(), table::thousands(*insn)),
            Outcome::Failed(_) => format!("{}: failed", cell.id()),
        };
        self.0.inc(1);
        if std::io::stderr().is_terminal() {
            self.0.set_message(text);
        } else {
            eprintln!("xtask: {text}");
        }
    }

    fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("xtask: {text}"));
    }

    fn end(self) {
        self.0.finish_and_clear();
    }
}
