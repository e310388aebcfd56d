// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work on objects that people bring, in a process of its own: libbpf trusts what a compiler made,
//! and crashes over what none did.

use crate::cli::output::{self, Told};
use crate::error::{Context, Error, Kind};
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};

/// Does `work` on `object` in a child, which also tells what fails and prints what is asked for.
///
/// # Errors
/// [`Kind::Usage`] if the child crashes, or a [`Told`] with the child's exit status.
pub fn run(object: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    // SAFETY: this process has one thread, so the child may do whatever its parent may.
    match unsafe { fork() }.context(|| "failed to start a process")? {
        ForkResult::Child => {
            // Never alone: whoever ends the tool ends all of it.
            let _ = set_pdeathsig(Signal::SIGKILL);
            let status = output::end("ubd-bpf", work());
            std::process::exit(status.into());
        }
        ForkResult::Parent { child } => match wait(child)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, status) => Err(Told(status as u8).into()),
            // With it, the program is gone: a link lives as long as its process until it is pinned.
            end => {
                let why = match end {
                    WaitStatus::Signaled(_, signal, _) => signal.as_str(),
                    _ => "no reason known",
                };
                let text = format!(
                    "failed to load `{object}`: libbpf crashed over it ({why}); it is damaged"
                );
                Err(Error::new(Kind::Usage, text).into())
            }
        },
    }
}

fn wait(child: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            end => return Ok(end.context(|| "failed to wait for a process")?),
        }
    }
}
