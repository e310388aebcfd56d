// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the tests in a child, so that one that hangs in the kernel, and cannot even be killed,
//! ends the run all the same.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Set for the child.
const WORKER: &str = "UBD_VM_TEST_WORKER";

/// The child prints at least once a test; longer silence means that one hangs.
const PATIENCE_MS: i32 = 1_200_000;

/// Runs `work`, which gives the exit code, with the arguments.
#[allow(clippy::zombie_processes)] // one that hangs in the kernel cannot be waited for
pub fn run(work: impl FnOnce(&[String]) -> u8) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if std::env::var_os(WORKER).is_some() {
        return ExitCode::from(work(&args));
    }
    let me = std::env::current_exe().expect("the path of the test program");
    let mut child = Command::new(me)
        .args(&args)
        .env(WORKER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting the tests");
    let mut from = child.stdout.take().expect("the tests' output");
    let mut buffer = [0; 4096];
    loop {
        let mut poll = libc::pollfd {
            fd: from.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, of an open pipe.
        match unsafe { libc::poll(&mut poll, 1, PATIENCE_MS) } {
            0 => {
                println!("HANGS: no word for {} s", PATIENCE_MS / 1000);
                print_blocked_tasks();
                return ExitCode::FAILURE;
            }
            n if n < 0 => continue, // a signal
            _ => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                let mut out = std::io::stdout();
                out.write_all(&buffer[..n])
                    .and_then(|()| out.flush())
                    .expect("printing");
            }
            Err(err) => panic!("failed to read the tests' output: {err}"),
        }
    }
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("waiting for the tests") {
            Some(status) => break status,
            // A thread of it hangs in the kernel.
            None if start.elapsed() > Duration::from_secs(60) => return ExitCode::FAILURE,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.code().is_none() {
        println!("the tests were killed: {status}");
    }
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Ends the child, though one of its threads may hang in the kernel: nobody waits for that.
pub fn leave() -> ! {
    // SAFETY: nothing is printed from here on; the supervisor sees the end of what was.
    unsafe { libc::close(1) };
    std::process::exit(1)
}

/// Prints the kernel stacks of all processes, and of what else sleeps uninterruptibly.
pub fn print_blocked_tasks() {
    let tasks = entries("/proc")
        .into_iter()
        .flat_map(|process| entries(process.join("task")));
    for task in tasks {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.map_or("", |line| line[name.len()..].trim())
        };
        let (name, state) = (field("Name:"), field("State:"));
        // The kernel's threads have none.
        let command = read("cmdline").replace('\0', " ");
        if !command.is_empty() || state.starts_with('D') {
            let stack = read("stack");
            println!("{name} {} {state} {command}\n{stack}", task.display());
        }
    }
}

fn entries(dir: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
