// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs tests one after the other and judges what each leaves behind.

use std::io::Write;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Instant;

use anyhow::{anyhow, bail, Context, Result};

use super::kernel_log::KernelLog;
use super::{leaks, leftovers, module, shutdown, Skip, Test};

/// Exit code: 0 when nothing failed.
pub fn run(tests: &[&Test], filters: &[String]) -> u8 {
    let wanted = |test: &&&Test| {
        filters.is_empty() || filters.iter().any(|f| test.name.contains(f.as_str()))
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut run = |name: &str, body: &dyn Fn() -> Result<()>| {
        print!("test {name} ... ");
        std::io::stdout().flush().expect("printing");
        let start = Instant::now();
        let result = guarded(body);
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("ok ({seconds:.1} s)");
            }
            Err(err) if err.is::<Skip>() => {
                skipped += 1;
                println!("SKIP: {err}");
            }
            Err(err) => {
                failed += 1;
                println!("FAILED ({seconds:.1} s)\n{err:?}\n");
            }
        }
    };

    run("module/refuses_without_btf", &module::refuses_without_btf);
    run("module/load", &module::load);
    for test in tests.iter().filter(wanted) {
        run(test.name, &test.run);
    }
    if leaks::are_watched() {
        run("module/leaks_nothing", &leaks::none);
    }
    run("module/unload_leaves_nothing", &module::unload);
    if failed == 0
        && (filters.is_empty() || filters.iter().any(|f| shutdown::NAME.contains(f.as_str())))
    {
        // Nothing is cleaned up after this one.
        match shutdown::leave_devices_open() {
            Ok(()) => println!(
                "test {} ... left behind: the machine must end",
                shutdown::NAME
            ),
            Err(err) => {
                failed += 1;
                println!("test {} ... FAILED\n{err:?}\n", shutdown::NAME);
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    u8::from(failed > 0)
}

/// Runs one test; panics, complaints of the kernel and things left behind are failures too.
fn guarded(body: &dyn Fn() -> Result<()>) -> Result<()> {
    let mut log = KernelLog::from_now()?;
    let result = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(anyhow!("panicked: {}", text.unwrap_or("without a word")))
        }
    };
    let left = leftovers::clean_up();
    let complaints = log.complaints()?;
    if !complaints.is_empty() {
        let complaints = format!("the kernel complained:\n{complaints}");
        return match result {
            Err(err) if !err.is::<Skip>() => Err(err.context(complaints)),
            _ => Err(anyhow!(complaints)),
        };
    }
    match (result, left) {
        (Ok(()), Ok(left)) if !left.is_empty() => bail!("left behind: {}", left.join(", ")),
        (Ok(()), Err(err)) => Err(err).context("failed to clean up after the test"),
        (result, _) => result,
    }
}
