// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask mutants`: is every guard of the driver noticed when it is missing? Each mutant is the
//! driver without one of them, and the tests that it names must fail.
//!
//! Drivers share a machine as long as each leaves it as it found it. First comes the driver as it
//! is, with which all of the tests must pass.

mod outcome;
mod patch;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use clap::Args;
use serde_json::json;

use crate::kernel::{Build, Kernel, Series};
use crate::{host, kmod, test, vm};
use outcome::Outcome;
use patch::Mutant;

const SCRIPT: &str = include_str!("../../guest/mutants.sh");

/// The driver as it is, among the mutants.
const UNCHANGED: &str = "unchanged";

/// `cargo xtask mutants`
#[derive(Args)]
pub struct MutantsArgs {
    /// Print the results as JSON
    #[arg(long)]
    json: bool,

    /// Take a test that goes on for so long for one that hangs [default: 240, where KASAN is needed 900]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,

    /// Only those with one of these in their name
    filter: Vec<String>,
}

/// 1 if one was not caught.
pub fn command(series: &Series, build: Build, args: &MutantsArgs) -> Result<u8> {
    let mutants = Mutant::all(&args.filter)?;
    if mutants.is_empty() {
        bail!(crate::Usage("no mutant has such a name"));
    }
    let (debug, plain): (Vec<_>, Vec<_>) = mutants.iter().partition(|mutant| mutant.sanitize);
    let mut results = Vec::new();
    let with_kasan = match build {
        Build::Packaged => Build::Debug,
        chosen => chosen,
    };
    for (group, build, limit) in [(plain, build, 240), (debug, with_kasan, 900)] {
        if group.is_empty() {
            continue;
        }
        let kernel = Kernel::prepare(series, build)?;
        match run(&kernel, &group, args.limit.unwrap_or(limit))? {
            Some(outcomes) => results.extend(outcomes),
            None => return Ok(1),
        }
    }
    results.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    match args.json {
        true => println!("{}", as_json(&results)),
        false => print!("{}", as_table(&results)),
    }
    let caught = |(_, outcome): &&(&Mutant, Outcome)| matches!(outcome, Outcome::Caught { .. });
    let nr = results.iter().filter(caught).count();
    eprintln!("{nr} of {} were caught", results.len());
    Ok(u8::from(nr < results.len()))
}

/// What becomes of each; none if the tests fail with the driver as it is.
fn run<'a>(
    kernel: &Kernel,
    group: &[&'a Mutant],
    limit: u64,
) -> Result<Option<Vec<(&'a Mutant, Outcome)>>> {
    let sources = kmod::sources()?;
    let mut drivers = Vec::new();
    for mutant in group {
        let driver = build(kernel, mutant, &sources)?;
        drivers.push((mutant.name.as_str(), driver, mutant.tests.clone()));
    }
    let mut all: Vec<_> = group.iter().flat_map(|m| m.tests.iter().cloned()).collect();
    all.sort();
    all.dedup();
    drivers.insert(0, (UNCHANGED, kmod::build(kernel)?, all));

    let mut outcomes = Vec::new();
    while outcomes.len() < drivers.len() {
        let done = outcomes.len();
        outcomes.extend(machine(kernel, &drivers[done..], limit)?);
        if outcomes.len() == done {
            bail!("the machine has come up and begun with nothing");
        }
        match &outcomes[0] {
            Outcome::Survived => {}
            Outcome::Caught { by, how } => {
                eprintln!("the driver as it is fails in {by}: {how}");
                return Ok(None);
            }
            Outcome::Unknown(why) => bail!("the driver as it is cannot be tested: {why}"),
        }
    }
    Ok(Some(
        group
            .iter()
            .copied()
            .zip(outcomes.into_iter().skip(1))
            .collect(),
    ))
}

/// The driver without the guard; kept, for there are many of them. They share a directory to build
/// in, so that of each only what it changes is compiled.
fn build(kernel: &Kernel, mutant: &Mutant, sources: &[kmod::Source]) -> Result<PathBuf> {
    let dir = host::target().join("mutants").join(&kernel.version);
    let changed = mutant.apply(sources, &dir.join("source"))?;
    let driver = dir.join(format!("{}.ko", mutant.name));
    let stamp = dir.join(format!("{}.key", mutant.name));
    let key = kmod::key(kernel, &changed);
    if driver.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(driver);
    }
    let built = kmod::build_of(kernel, &changed, &dir)
        .with_context(|| format!("failed to build the mutant `{}`", mutant.name))?;
    fs::copy(&built, &driver)?;
    fs::write(&stamp, key)?;
    Ok(driver)
}

type Driver<'a> = (&'a str, PathBuf, Vec<String>);

/// One machine: the outcomes of as many of `drivers` as it got to.
fn machine(kernel: &Kernel, drivers: &[Driver], limit: u64) -> Result<Vec<Outcome>> {
    let guest = test::guest(kernel)?;
    guest.write("mutants.sh", SCRIPT)?;
    let mut timeout = 600;
    for (name, module, tests) in drivers {
        guest.copy(module, &format!("mutants/{name}.ko"))?;
        guest.write(&format!("mutants/{name}.tests"), &tests.join(" "))?;
        let seconds = limit * tests.len() as u64;
        guest.write(&format!("mutants/{name}.seconds"), &seconds.to_string())?;
        timeout += seconds;
    }
    let names = drivers.iter().map(|(name, ..)| OsString::from(name));
    let command: Vec<_> = std::iter::once("/ubd/run/mutants.sh".into())
        .chain(names)
        .collect();
    let machine = vm::Machine {
        // One CPU that spins is a mutant, too.
        append: vec!["softlockup_panic=1".to_owned()],
        timeout: Some(timeout),
        ..vm::Machine::usual()
    };
    eprintln!("xtask: a machine for up to {} drivers ...", drivers.len());
    let printed = guest.dir.join("printed");
    vm::boot(kernel, &machine, &guest, &command, File::create(&printed)?)?;
    if !guest.started() {
        bail!(
            "the virtual machine did not come up; see `{}`",
            vm::kernel_log(&guest).display()
        );
    }
    let read = |path: &Path| -> Result<String> {
        let bytes =
            fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    };
    let (printed, log) = (read(&printed)?, read(&vm::kernel_log(&guest))?);
    let sections = outcome::sections(&printed);
    let outcomes = sections
        .iter()
        .zip(drivers)
        .map(|(section, (name, _, tests))| {
            let outcome = section.outcome(tests, &log);
            eprintln!("xtask: {name}: {}", sentence(&outcome));
            outcome
        });
    Ok(outcomes.collect())
}

fn sentence(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Caught { by, how } => format!("{by} fails: {how}"),
        Outcome::Survived => "its tests pass".to_owned(),
        Outcome::Unknown(why) => format!("nothing is known: {why}"),
    }
}

/// Markdown.
fn as_table(results: &[(&Mutant, Outcome)]) -> String {
    let mut table = "| guard taken away | caught by | how it failed |\n|---|---|---|\n".to_owned();
    for (mutant, outcome) in results {
        let (by, how) = match outcome {
            Outcome::Caught { by, how } => (format!("`{by}`"), how.as_str()),
            Outcome::Survived => ("**nothing**".to_owned(), ""),
            Outcome::Unknown(why) => ("**not known**".to_owned(), why.as_str()),
        };
        let cells = [mutant.guard.as_str(), &by, how].map(|cell| cell.replace('|', "\\|"));
        table += &format!("| {} |\n", cells.join(" | "));
    }
    table
}

fn as_json(results: &[(&Mutant, Outcome)]) -> serde_json::Value {
    let one = |(mutant, outcome): &(&Mutant, Outcome)| {
        let (state, by, how) = match outcome {
            Outcome::Caught { by, how } => ("caught", Some(by), Some(how)),
            Outcome::Survived => ("survived", None, None),
            Outcome::Unknown(why) => ("unknown", None, Some(why)),
        };
        json!({
            "name": mutant.name, "guard": mutant.guard, "why": mutant.why,
            "outcome": state, "caught_by": by, "how": how,
        })
    };
    results.iter().map(one).collect()
}
