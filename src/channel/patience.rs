// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a queue's thread takes the CPU from whoever wakes it.
//!
//! At once is best for somebody who waits for that one request, and dear for somebody who is about
//! to submit fifteen more: a patient thread (`SCHED_BATCH`) preempts nobody and finds them all. A
//! thread is patient as long as that pays, and tries again now and then.

/// Turns that bring a single request before patience is given up.
const SINGLES: u32 = 8;
/// Turns until it is tried again.
const PROMPT: u32 = 512;

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Not ours to change.
    fixed: bool,
    prompt: bool,
    /// Since that changed; if patient, those in a row with a single request.
    turns: u32,
}

impl Patience {
    /// Of the calling thread, which is patient from now on; unless somebody has given it another
    /// policy, which is then left alone.
    pub(super) fn begin() -> Self {
        // SAFETY: takes no pointers; 0 names the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        let ours = matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH);
        if ours {
            set(false);
        }
        Patience {
            fixed: !ours,
            ..Patience::default()
        }
    }

    /// A turn has brought so many requests.
    pub(super) fn learn(&mut self, requests: u32) {
        if !self.fixed && self.changes(requests) {
            set(self.prompt);
        }
    }

    fn changes(&mut self, requests: u32) -> bool {
        match requests {
            0 => return false,
            2.. if !self.prompt => self.turns = 0,
            _ => self.turns += 1,
        }
        let change = self.turns >= if self.prompt { PROMPT } else { SINGLES };
        if change {
            self.prompt = !self.prompt;
            self.turns = 0;
        }
        change
    }
}

fn set(prompt: bool) {
    let policy = match prompt {
        true => libc::SCHED_OTHER,
        false => libc::SCHED_BATCH,
    };
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure, of which 0 names the calling thread.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } != 0 {
        let err = std::io::Error::last_os_error();
        log::debug!("failed to set a queue's scheduling policy: {err}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many turns of `requests` something changes.
    fn until_change(patience: &mut Patience, requests: u32) -> Option<u32> {
        (1..10_000).find(|_| patience.changes(requests))
    }

    #[test]
    fn patience_goes_when_requests_come_alone_and_is_tried_again() {
        let mut patience = Patience::default();
        assert_eq!(until_change(&mut patience, 1), Some(SINGLES));
        assert!(patience.prompt);
        assert_eq!(until_change(&mut patience, 1), Some(PROMPT));
        assert!(!patience.prompt);
    }

    #[test]
    fn patience_stays_as_long_as_it_pays() {
        let mut patience = Patience::default();
        for _ in 0..1000 {
            for requests in [1, 1, 0, 2] {
                assert!(!patience.changes(requests));
            }
        }
        assert_eq!(until_change(&mut patience, 16), None);
    }
}
