// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the servers of a device have been asked for: nothing twice, unless that was wanted.

use std::collections::{BTreeMap, VecDeque};
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
/// Requests of a round: the first server answers up to 11, and dies with all tags in hand.
const WRITERS: u64 = 11 + DEPTH as u64;

/// A request, by its sector, as often as a server has seen and has answered it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seen {
    taken: u32,
    answered: u32,
}

type Log = Arc<Mutex<BTreeMap<u64, Seen>>>;

/// Serves until the driver takes the tags back, answering at once; or, with `last`, until it has
/// answered so many and has all tags in hand again: then it closes everything, as if it was killed.
fn serve(node: File, log: &Log, last: Option<u32>) -> Result<()> {
    let descs = map(&node, libc::PROT_READ, descs_len(DEPTH), 0)?;
    let mut queue = Queue::new(node, 0, DEPTH)?;
    for tag in 0..DEPTH {
        queue.fetch(tag)?;
    }
    let (mut answered, mut live) = (0, DEPTH);
    let mut taken = VecDeque::new();
    while live > 0 {
        match queue.next(Duration::from_millis(100))? {
            None => continue,
            Some((_, ublk::IO_RES_ABORT)) => {
                live -= 1;
                continue;
            }
            Some((tag, result)) => {
                ensure!(result == ublk::IO_RES_OK, "tag {tag} ended with {result}");
                // SAFETY: the mapping holds DEPTH descriptors, this one is ours by the completion.
                let desc = unsafe { descs.cast::<ublk::IoDesc>().add(tag.into()).read_volatile() };
                seen(log, &desc, |seen| seen.taken += 1);
                taken.push_back((tag, desc));
            }
        }
        // With all tags in hand, nothing can come that it would not know of.
        if last.is_some() && taken.len() < DEPTH.into() {
            continue;
        }
        if last == Some(answered) {
            break;
        }
        let (tag, desc) = taken.pop_front().context("nothing is in hand")?;
        answered += 1;
        seen(log, &desc, |seen| seen.answered += 1);
        let cmd = queue.cmd(tag, (desc.nr_sectors << 9) as i32);
        queue.submit(ublk::U_IO_COMMIT_AND_FETCH_REQ, cmd, squeue::Flags::empty())?;
    }
    // SAFETY: mapped above, not used any more.
    unsafe { libc::munmap(descs, descs_len(DEPTH)) };
    Ok(())
}

/// Notes what was done with a write; others are udev's reads.
fn seen(log: &Log, desc: &ublk::IoDesc, note: fn(&mut Seen)) {
    if desc.op_flags & 0xff == ublk::IO_OP_WRITE {
        let mut log = log.lock().expect("the log");
        note(log.entry(desc.start_sector).or_default());
    }
}

fn spawn(id: u32, log: &Log, last: Option<u32>) -> Result<JoinHandle<Result<()>>> {
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
            // A scan that waits for this server would keep the writers from opening the disk.
            flags: ublk::F_USER_RECOVERY | ublk::F_NO_AUTO_PART_SCAN | flags,
            ..AddRequest::default()
        })?;
        let ubd = Ubd::adopt(info.dev_id);
        control.set_params(ubd.id(), &params())?;
        let (first, second) = (Log::default(), Log::default());
        let last = rng.u32(0..=11);
        let server = spawn(ubd.id(), &first, Some(last))?;
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
        let server = spawn(ubd.id(), &second, None)?;
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
