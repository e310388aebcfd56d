// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving a device in a process of its own.

use super::{serve, Job, Started};
use crate::error::{Context, Error, Kind, Result};
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{
    chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid, ForkResult, Pid,
};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

/// What the daemon tells its starter, once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    Ready { id: u32 },
    Failed { kind: Kind, text: String },
}

/// Closes what the caller left open beside the standard streams: a daemon would
/// keep it open for ever. Call this before anything is opened.
pub fn close_inherited() {
    // SAFETY: nothing of this process is open yet above the standard streams.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        log::debug!(
            "failed to close inherited files: {}",
            std::io::Error::last_os_error()
        );
    }
}

/// Serves a device in a new process and waits until it has started.
///
/// Call this while the process has one thread: it forks.
///
/// # Errors
/// Those of the daemon's start, as if it had been tried here.
pub fn spawn(job: impl Into<Job>) -> Result<Started> {
    let job = job.into();
    let (from_daemon, to_starter) =
        pipe2(OFlag::O_CLOEXEC).context(|| "failed to create a pipe")?;
    // SAFETY: the process has one thread, so the child may do what it likes.
    match unsafe { fork() }.context(|| "failed to fork the daemon")? {
        ForkResult::Child => {
            drop(from_daemon);
            std::process::exit(i32::from(child(job, to_starter.into())));
        }
        ForkResult::Parent { child } => {
            drop((job, to_starter));
            parent(child, from_daemon.into())
        }
    }
}

/// The daemon; gives the exit code.
fn child(job: Job, to_starter: File) -> u8 {
    let mut starter = Some(to_starter);
    let served = Streams::open().and_then(|streams| {
        // A starter that is interrupted wants no device: its end asks for ours. One that was there
        // before is not its to remove.
        if matches!(job, Job::Add(_)) {
            prctl::set_pdeathsig(Signal::SIGTERM).context(|| "failed to follow the starter")?;
        }
        setsid().context(|| "failed to start a session")?;
        chdir("/").context(|| "failed to change to `/`")?;
        serve(job, |started| {
            streams.switch();
            if let Err(errno) = prctl::set_pdeathsig(None) {
                log::warn!("failed to outlive the starter: {errno}");
            }
            tell(&mut starter, &Message::Ready { id: started.id });
        })
    });
    match served {
        Ok(()) => 0,
        Err(err) => {
            let failed = Message::Failed {
                kind: err.kind(),
                text: format!("{err:#}"),
            };
            if !tell(&mut starter, &failed) {
                log::error!("{err:#}");
            }
            err.kind().exit_code()
        }
    }
}

/// Tells the starter, which listens once; whether it still did.
fn tell(starter: &mut Option<File>, message: &Message) -> bool {
    match (starter.take(), serde_json::to_vec(message)) {
        (Some(mut pipe), Ok(text)) => pipe.write_all(&text).is_ok(),
        _ => false,
    }
}

/// The starter: waits for the daemon's word.
fn parent(child: Pid, mut from_daemon: File) -> Result<Started> {
    let mut text = Vec::new();
    from_daemon
        .read_to_end(&mut text)
        .context(|| "failed to hear from the daemon")?;
    match serde_json::from_slice(&text) {
        Ok(Message::Ready { id }) => Ok(Started { id }),
        Ok(Message::Failed { kind, text }) => Err(Error::new(kind, text)),
        Err(_) => {
            let end = match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
                _ => "ended".to_owned(),
            };
            Err(Error::new(
                Kind::Protocol,
                format!("the daemon {end} before the device started"),
            ))
        }
    }
}

/// Where a daemon's streams go once nobody looks at it: nothing comes in,
/// nothing goes out, and errors go to the kernel's log, which is always there.
struct Streams {
    null: File,
    log: Option<File>,
}

impl Streams {
    fn open() -> Result<Self> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context(|| "failed to open `/dev/null`")?;
        Ok(Streams {
            null,
            log: OpenOptions::new().write(true).open("/dev/kmsg").ok(),
        })
    }

    fn switch(&self) {
        let errors = self.log.as_ref().unwrap_or(&self.null);
        let switched = dup2_stdin(&self.null)
            .and_then(|()| dup2_stdout(&self.null))
            .and_then(|()| dup2_stderr(errors));
        if let Err(errno) = switched {
            log::warn!("failed to leave the terminal: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_pipe() {
        let said = Message::Failed {
            kind: Kind::Busy,
            text: "failed to x: busy".into(),
        };
        let heard = serde_json::from_slice(&serde_json::to_vec(&said).unwrap()).unwrap();
        assert_eq!(said, heard);
    }
}
