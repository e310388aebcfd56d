// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting in a handler for what another thread does, without blocking the queue.
//!
//! A futex: a handler sleeps in its ring ([`super::Step::Wait`]), other threads in the system call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// `FUTEX2_SIZE_U32 | FUTEX2_PRIVATE` of `linux/futex.h`.
pub(super) const FUTEX2_FLAGS: u32 = 0x02 | 0x80;
pub(super) const FUTEX_BITSET_MATCH_ANY: u64 = 0xffff_ffff;

/// Tells its waiters that something has changed; they look for themselves what it was.
///
/// So that nothing is missed, take a [`Signal::ticket`] first, then look, then wait with that
/// ticket: one that is out of date ends the wait at once.
#[derive(Debug, Clone, Default)]
pub struct Signal(Arc<AtomicU32>);

impl Signal {
    /// To wait for the next [`Signal::raise`] from now on.
    pub fn ticket(&self) -> Ticket {
        Ticket {
            signal: self.clone(),
            seen: self.0.load(Ordering::SeqCst),
        }
    }

    /// Wakes all who wait.
    pub fn raise(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the word is an aligned u32 that `self` keeps alive.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            );
        }
    }
}

/// A wait for a [`Signal`].
#[derive(Debug, Clone)]
pub struct Ticket {
    signal: Signal,
    seen: u32,
}

impl Ticket {
    /// Sleeps until the signal has been raised. May return early.
    pub fn wait(&self) {
        // SAFETY: as in `raise`; no timeout is passed.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.word(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                self.seen,
                std::ptr::null::<libc::timespec>(),
            );
        }
    }

    /// The word and the value that it must still have, for a futex wait in a ring.
    pub(super) fn word(&self) -> *const u32 {
        self.signal.0.as_ptr()
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.into()
    }
}

impl PartialEq for Ticket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.signal.0, &other.signal.0) && self.seen == other.seen
    }
}

impl Eq for Ticket {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn an_old_ticket_does_not_wait() {
        let signal = Signal::default();
        let ticket = signal.ticket();
        assert_eq!(ticket, signal.ticket());
        signal.raise();
        assert_ne!(ticket, signal.ticket());
        ticket.wait();
    }

    #[test]
    fn whoever_looks_between_ticket_and_wait_misses_nothing() {
        let (signal, done) = (Signal::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| loop {
                    let ticket = signal.ticket();
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    ticket.wait();
                });
            }
            thread::yield_now();
            done.store(true, Ordering::SeqCst);
            signal.raise();
        });
    }
}
