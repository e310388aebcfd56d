// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ends a daemon: a signal, or the end of its queues.

use crate::error::{Context, Result};
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The signals that ask the daemon to remove its device.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread and those that it starts, and
    /// collects them from now on.
    pub(super) fn block() -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGHUP);
        mask.thread_block().context(|| "failed to block signals")?;
        // Beyond the limit of a file's size a write is to fail, and not to end the daemon.
        let mut size = SigSet::empty();
        size.add(Signal::SIGXFSZ);
        size.thread_block().context(|| "failed to block SIGXFSZ")?;
        let fd = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)
            .context(|| "failed to create a signalfd")?;
        Ok(Signals(fd))
    }

    /// Whether one has come by now; it stays to be waited for.
    pub(super) fn has_come(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)
            .map(|nr| nr > 0)
            .context(|| "failed to look for signals")
    }
}

/// Rung when a queue ends, for whatever reason, a panic included.
#[derive(Debug, Clone)]
pub(super) struct Bell(Arc<EventFd>);

impl Bell {
    pub(super) fn new() -> Result<Self> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)
            .context(|| "failed to create an eventfd")?;
        Ok(Bell(Arc::new(fd)))
    }

    /// Rings when the value returned here is dropped.
    pub(super) fn ring_at_end(&self) -> Ringer {
        Ringer(self.clone())
    }
}

/// See [`Bell::ring_at_end`].
pub(super) struct Ringer(Bell);

impl Drop for Ringer {
    fn drop(&mut self) {
        if let Err(errno) = self.0 .0.write(1) {
            log::error!("failed to report the end of a queue: {errno}");
        }
    }
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Somebody asked the daemon to remove its device.
    Signal,
    /// A queue has ended: of the device that has this place among the bells.
    QueueEnded(usize),
}

/// Sleeps until a signal comes or one of the bells rings.
pub(super) fn wait<'a>(
    signals: &'a Signals,
    bells: impl Iterator<Item = &'a Bell>,
) -> Result<Event> {
    let mut fds: Vec<_> = std::iter::once(signals.0.as_fd())
        .chain(bells.map(|bell| bell.0.as_fd()))
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context(|| "failed to wait for signals"),
        }
    }
    let first = fds.iter().position(|fd| fd.any().unwrap_or(false));
    Ok(match first {
        None | Some(0) => Event::Signal,
        Some(place) => Event::QueueEnded(place - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_thread_rings_even_if_it_panics() {
        let signals = Signals::block().unwrap();
        let bells = [Bell::new().unwrap(), Bell::new().unwrap()];
        let bell = &bells[1];
        let ringer = bell.ring_at_end();
        let thread = std::thread::spawn(move || {
            let _ringer = ringer;
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert_eq!(wait(&signals, bells.iter()).unwrap(), Event::QueueEnded(1));
        assert!(thread.join().is_err());
    }
}
