// SPDX-License-Identifier: MIT OR Apache-2.0
//! The threads that serve the queues.

use super::wait::Bell;
use crate::channel::{CharNode, Handler, Queue};
use crate::error::{Context, Error, Kind, Result};
use crate::target::Target;
use crate::uapi::ublk;
use nix::sched::{sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use std::sync::{mpsc, Arc};
use std::thread::{sleep, Builder, JoinHandle};
use std::time::Duration;

/// The running queues of a device.
#[derive(Debug, Default)]
pub(super) struct Queues {
    running: Vec<JoinHandle<Result<()>>>,
    ended: Vec<Result<()>>,
}

impl Queues {
    /// Starts a thread for each of `cpus`, which are those of each queue, and
    /// waits until each has fetched or failed. Tells whether all have fetched;
    /// if not, the others end when the device is stopped, and [`Self::join`]
    /// says why.
    pub(super) fn start(
        &mut self,
        node: &Arc<CharNode>,
        info: &ublk::DevInfo,
        cpus: Vec<CpuSet>,
        target: &Arc<dyn Target>,
        forward: bool,
        bell: &Bell,
    ) -> Result<bool> {
        let (tx, rx) = mpsc::channel();
        for (id, cpus) in (0u16..).zip(cpus) {
            let (node, target, info, tx) = (node.clone(), target.clone(), *info, tx.clone());
            let ringer = bell.ring_at_end();
            let thread = Builder::new()
                .name(format!("ubd{}-q{id}", info.dev_id))
                .spawn(move || {
                    let _ringer = ringer;
                    let handler = handler(&*target, info.queue_depth, forward)?;
                    run(&node, &info, id, &cpus, &*target, handler, tx)
                })
                .context(|| format!("failed to start the thread of queue {id}"))?;
            self.running.push(thread);
        }
        drop(tx);
        // A thread says that it has fetched, or drops its end without a word.
        Ok(rx.iter().count() == self.running.len())
    }

    /// Whether a queue has ended with a failure; [`Self::join`] tells it. At least one must be about
    /// to end.
    pub(super) fn reap(&mut self) -> bool {
        // The bell rings a moment before the thread is gone.
        while !self.running.is_empty() && !self.running.iter().any(JoinHandle::is_finished) {
            sleep(Duration::from_millis(1));
        }
        let (ended, running) = self
            .running
            .drain(..)
            .partition::<Vec<_>, _>(JoinHandle::is_finished);
        self.running = running;
        self.ended.extend(ended.into_iter().map(end_of));
        self.ended.iter().any(Result::is_err)
    }

    /// The first failure of those that [`Self::reap`] has found.
    pub(super) fn first_failure(&mut self) -> Result<()> {
        self.ended.drain(..).fold(Ok(()), Result::and)
    }

    /// Waits for all queues to end; gives the first failure.
    pub(super) fn join(&mut self) -> Result<()> {
        let ended = self.ended.drain(..);
        let running = self.running.drain(..).map(end_of);
        ended.chain(running).fold(Ok(()), Result::and)
    }
}

/// What serves a queue of `depth` tags.
fn handler(target: &dyn Target, depth: u16, forward: bool) -> Result<Box<dyn Handler + '_>> {
    if !forward {
        return Ok(target.handler(depth));
    }
    target.forwarder(depth).ok_or_else(|| {
        let name = target.name();
        let text = format!("a {name} device has nothing that I/O could be forwarded to");
        Error::new(Kind::Usage, text)
    })
}

/// The body of a queue's thread.
fn run(
    node: &CharNode,
    info: &ublk::DevInfo,
    id: u16,
    cpus: &CpuSet,
    target: &dyn Target,
    handler: Box<dyn Handler + '_>,
    fetched: mpsc::Sender<()>,
) -> Result<()> {
    if let Err(errno) = sched_setaffinity(Pid::from_raw(0), cpus) {
        log::debug!("queue {id} runs on any CPU: {errno}");
    }
    let mut queue = Queue::new(node, info, id, &target.files(), handler)?;
    queue.run(move || {
        // Nobody listens any more only when another queue has failed.
        let _ = fetched.send(());
    })
}

fn end_of(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Error::new(Kind::Protocol, "a queue's thread panicked")))
}
