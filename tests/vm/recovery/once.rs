// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the servers of a device have been asked for: nothing twice, unless that was wanted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use io_uring::squeue;
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;

use super::SOON;
use crate::control::server::{delete, descs_len, map, open_node, params, Queue, IO_BYTES};
use crate::support::io::{open_direct, Aligned};
use crate::support::{wait_for, Ubd};

const DEPTH: u16 = 8;
/// Requests of a round: more than tags.
const WRITERS: u64 = 20;

/// A request, by its sector, as often as a server has seen and has answered it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    taken: u32,
    answered: u32,
}

type Log = Arc<Mutex<BTreeMap<u64, Seen>>>;

/// Serves until `last` requests are answered or the driver takes the tags back; closes everything
/// then, as if it was killed.
fn serve(node: File, log: &Log, last: u32) -> Result<()> {
    let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
    let mut queue = Queue::new(node, 0, DEPTH)?;
    for tag in 0..DEPTH {
        queue.fetch(tag)?;
    }
    let (mut answered, mut live) = (0, DEPTH);
    let mut taken = Vec::new();
    while live > 0 {
        match queue.next(Duration::from_millis(100))? {
            Some((_, ublk::IO_RES_ABORT)) => live -= 1,
            Some((tag, result)) => {
                ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
                // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
                let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
                log.lock()
                    .expect("the log")
                    .entry(desc.start_sector)
                    .or_default()
                    .taken += 1;
                taken.push((tag, desc));
                continue;
            }
            None => {}
        }
        // It answers only when all tags are taken or no more come, so that it dies with some.
        while answered < last {
            let Some((tag, desc)) = taken.pop() else {
                break;
            };
            answered += 1;
            log.lock()
                .expect("the log")
                .entry(desc.start_sector)
                .or_default()
                .answered += 1;
            let cmd = queue.cmd(tag, (desc.nr_sectors << 9) as i32);
            queue.submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, cmd, squeue::Flags::empty())?;
        }
        if answered == last && taken.len() as u16 + live >= DEPTH && !taken.is_empty() {
            break;
        }
    }
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(DEPTH)) };
    Ok(())
}

fn spawn(id: u32, log: &Log, last: u32) -> Result<JoinHandle<Result<()>>> {
    let (node, log) = (open_node(id)?, log.clone());
    Ok(std::thread::spawn(move || serve(node, &log, last)))
}

/// Several rounds of: many write, the server answers some and dies, another one follows. Gives for
/// each write what the first and the second server saw of it, and whether it succeeded.
fn rounds(flags: u64, check: fn(Seen, Seen, bool) -> bool) -> Result<()> {
    let control = Control::open()?;
    let mut rng = Rng::with_seed(flags);
    for round in 0..8 {
        let info = control.add(&AddRequest {
            queues: 1,
            depth: DEPTH,
            max_io_bytes: IO_BYTES as u32,
            flags: ublk::F_USER_RECOVERY | flags,
            ..AddRequest::default()
        })?;
        let ubd = Ubd::adopt(info.dev_id);
        control.set_params(ubd.id(), &params())?;
        let (first, second) = (Log::default(), Log::default());
        let last = rng.u32(0..12);
        let server = spawn(ubd.id(), &first, last)?;
        // No partition scan in the log.
        control.start(ubd.id(), std::process::id())?;
        let node = open_direct(ubd.node(), true)?;
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let node = node.try_clone()?;
                Ok(std::thread::spawn(move || {
                    node.write_all_at(&Aligned::new(4096), (1 << 20) + (number << 16))
                        .is_ok()
                }))
            })
            .collect::<Result<_>>()?;
        server.join().expect("the first server")?;
        wait_for("state quiesced", SOON, || {
            ubd.attr("ubd/state").is_ok_and(|state| state == "quiesced")
        })?;
        control.start_recovery(ubd.id())?;
        let server = spawn(ubd.id(), &second, u32::MAX)?;
        control.end_recovery(ubd.id(), std::process::id())?;
        let ended: Vec<bool> = writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect();
        drop(node);
        control.stop(ubd.id())?;
        server.join().expect("the second server")?;
        delete(&control, ubd)?;

        let [first, second] = [first, second].map(|log| log.lock().expect("the log").clone());
        let of = |log: &BTreeMap<u64, Seen>, number: u64| {
            let sector = ((1 << 20) + (number << 16)) >> 9;
            log.get(&sector).copied().unwrap_or_default()
        };
        let died_with = first
            .values()
            .filter(|seen| seen.taken > seen.answered)
            .count();
        ensure!(
            died_with > 0,
            "the first server has died with nothing in hand"
        );
        for (number, ended) in (0u64..).zip(ended) {
            let (a, b) = (of(&first, number), of(&second, number));
            ensure!(
                check(a, b, ended),
                "round {round}, write {number}: the servers have seen {a:?} and {b:?}, \
                 and it {}",
                if ended { "succeeded" } else { "failed" }
            );
        }
    }
    Ok(())
}

const NEVER: Seen = Seen {
    taken: 0,
    answered: 0,
};
const DONE: Seen = Seen {
    taken: 1,
    answered: 1,
};
const TAKEN: Seen = Seen {
    taken: 1,
    answered: 0,
};

/// What a server had in hand fails, and no other server sees it.
pub fn waits() -> Result<()> {
    rounds(0, |a, b, succeeded| match (a, b) {
        (DONE, NEVER) | (NEVER, DONE) => succeeded,
        (TAKEN, NEVER) => !succeeded,
        _ => false,
    })
    .context("without REISSUE")
}

/// What a server had in hand is done again, once, and nothing fails.
pub fn reissues() -> Result<()> {
    rounds(ublk::F_USER_RECOVERY_REISSUE, |a, b, succeeded| {
        succeeded && matches!((a, b), (DONE, NEVER) | (NEVER, DONE) | (TAKEN, DONE))
    })
    .context("with REISSUE")
}
