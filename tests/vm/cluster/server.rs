// SPDX-License-Identifier: MIT OR Apache-2.0
//! A daemon of the relocating target, in a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::{bail, Context, Result};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{fork, pipe2, ForkResult, Pid};
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::daemon::{self, Config, FastPath};

use super::mover::Mover;
use super::target::Moving;
use super::CLUSTER_BYTES;
use crate::support::{sh, Ubd};

/// The name of its program.
pub const PROGRAM: &str = "relocate";

/// How a daemon works.
pub struct Options {
    /// Threads that move clusters.
    pub movers: usize,
    /// Moves of each of them; then it ends.
    pub moves: u64,
    /// Whether they wait for what is in flight.
    pub fence: bool,
    pub cluster_bytes: u64,
    /// Of the disk, only its first bytes.
    pub limit: Option<u64>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            movers: 1,
            moves: u64::MAX,
            fence: true,
            cluster_bytes: CLUSTER_BYTES,
            limit: None,
        }
    }
}

/// The running daemon and its device.
pub struct Server {
    pub device: Ubd,
    said: BufReader<File>,
    process: Process,
}

struct Process(Pid);

impl Process {
    fn end(&self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Server {
    /// Shows `node`, whose clusters move.
    pub fn start(node: &str, options: &Options) -> Result<Server> {
        let (from, to) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: the tests run on the only thread of this process.
        let process = match unsafe { fork() }? {
            ForkResult::Child => {
                drop(from);
                let mut to = File::from(to);
                let run = || serve(&mut to, node, options);
                let text = match catch_unwind(AssertUnwindSafe(run)) {
                    Ok(Ok(moves)) => format!("moves {moves}\n"),
                    Ok(Err(err)) => format!("error {err:#}\n").replace('\n', " ") + "\n",
                    Err(_) => "error panicked\n".to_owned(),
                };
                let _ = to.write_all(text.as_bytes());
                // SAFETY: ends the process without the guards of the tests, which are not ours.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => Process(child),
        };
        drop(to);
        let mut said = BufReader::new(File::from(from));
        let id = word(&mut said, "id")?;
        let device = Ubd::adopt(id as u32);
        sh("settle")?;
        Ok(Server {
            device,
            said,
            process,
        })
    }

    /// Deletes the device; gives the number of moves.
    pub fn stop(mut self) -> Result<u64> {
        self.device.del()?;
        word(&mut self.said, "moves")
    }

    /// Kills the daemon.
    pub fn kill(&self) {
        self.process.end();
    }
}

/// The number behind `what` in the next line.
fn word(said: &mut impl BufRead, what: &str) -> Result<u64> {
    let mut line = String::new();
    said.read_line(&mut line)?;
    match line.trim_end().split_once(' ') {
        Some((said, number)) if said == what => Ok(number.parse()?),
        _ => bail!(
            "the daemon said `{}` instead of its {what}",
            line.trim_end()
        ),
    }
}

/// The daemon; gives the number of moves.
fn serve(to: &mut File, node: &str, options: &Options) -> Result<u64> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let target = Arc::new(Moving::open(
        node.into(),
        options.limit,
        PROGRAM.parse()?,
        options.cluster_bytes,
    )?);
    let config = Config {
        control: Control::open()?,
        add: AddRequest {
            id: None,
            queues: 2,
            depth: 64,
            max_io_bytes: 512 << 10,
            ..AddRequest::default()
        },
        fast_path: Some(FastPath {
            program: PROGRAM.to_owned(),
            cookie: 0,
            settings: Vec::new(),
            ..FastPath::default()
        }),
        forward: false,
        target: target.clone(),
    };
    let control = Control::open()?;
    let (mover, moves, stop) = (
        Mover::new(&target),
        AtomicU64::new(0),
        AtomicBool::new(false),
    );
    let (mover, moves, stop, control) = (&mover, &moves, &stop, &control);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let served = daemon::serve(config, |started| {
            for _ in 0..options.movers {
                threads.push(scope.spawn(move || -> ubd_bpf::Result<()> {
                    let mut left = options.moves;
                    while left > 0 && !stop.load(Ordering::Relaxed) {
                        let moved = mover.step(|| match options.fence {
                            true => control.fence(started.id),
                            false => Ok(()),
                        })?;
                        left -= u64::from(moved);
                        moves.fetch_add(u64::from(moved), Ordering::Relaxed);
                    }
                    Ok(())
                }));
            }
            let _ = writeln!(to, "id {}", started.id);
        });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join().expect("a mover") {
                // The device may go before its mover does.
                Err(err) if err.kind() != ubd_bpf::Kind::NotFound => return Err(err.into()),
                _ => {}
            }
        }
        served.context("the daemon failed")
    })?;
    Ok(moves.load(Ordering::Relaxed))
}
