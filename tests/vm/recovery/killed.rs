// SPDX-License-Identifier: MIT OR Apache-2.0
//! kill -9 at random points: nothing that was acknowledged is lost, nothing is made up.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::uapi::ublk;

use super::killer::{cycles, kill_under};
use crate::support::backing::{Backing, Kind};
use crate::support::io::{open_direct, Aligned};
use crate::support::model::Model;
use crate::support::{needs_features, Fio, Prog, RamDisk, Ubd};

/// Whoever uses the device sees nothing of it: reissued, every request ends well.
fn model(kind: Kind, options: &str) -> Result<()> {
    let backing = Backing::new(kind)?;
    let prog = Prog::load("decline_random", &["percent=50"])?;
    let ubd = backing.device(&format!(
        "-q 2 --recovery=reissue --bpf-fastpath={} {options}",
        prog.name()
    ))?;
    let mut model = Model::of(&ubd, backing.shown(), kind.clears())?;
    let before = ubd.counters()?;
    kill_under(&ubd, "quiesced", cycles(), |run, _| {
        model.run(&ubd.node(), run.into(), 40).map(drop)
    })?;
    let count = ubd.counters()?.since(&before);
    for op in ["read", "write"] {
        ensure!(
            count[&format!("{op}_mapped")] > 0 && count[&format!("{op}_declined")] > 0,
            "{}",
            count.summary()
        );
    }
    ensure!(
        (count["write_forwarded"] > 0) == options.contains("--forward"),
        "{}",
        count.summary()
    );
    ensure!(
        count["error"] == 0 && count["bad"] == 0,
        "{}",
        count.summary()
    );
    ubd.del()?;
    backing
        .check(&model.bytes)
        .context("the backing is not as the model")
}

pub fn model_disk() -> Result<()> {
    model(Kind::Disk, "")
}

pub fn model_file() -> Result<()> {
    model(Kind::FileDirect, "")
}

pub fn model_user_copy() -> Result<()> {
    model(Kind::FileBuffered, "--user-copy")
}

/// The pages of a request are in use by what the dead daemon has begun, and then by the next one.
pub fn model_zero_copy() -> Result<()> {
    needs_features(ublk::F_AUTO_BUF_REG)?;
    model(Kind::FileDirect, "--zero-copy")
}

/// What is forwarded is neither lost with the daemon nor done again by the next one.
pub fn model_forward() -> Result<()> {
    model(Kind::Disk, "--forward")
}

pub fn fio() -> Result<()> {
    let disk = RamDisk::new()?;
    let prog = Prog::load("checker", &["chunk=64"])?;
    let ubd = Ubd::add(&[
        "-t loop -q 2 --recovery=reissue -f",
        &disk.node(),
        &format!("--bpf-fastpath={}", prog.name()),
    ])?;
    kill_under(&ubd, "quiesced", cycles(), |run, _| {
        Fio::verify(&ubd.node(), 1000)
            .option("size=8M")
            .option("verify_backlog=64")
            .option("bssplit=4k/60:16k/20:128k/20")
            .option(&format!("randseed={run}"))
            .run()
            .map(drop)
    })?;
    ubd.del()
}

const THREADS: usize = 4;
/// Blocks of each thread.
const BLOCKS: usize = 64;
const BLOCK: usize = 4096;

/// Requests in hand when the daemon dies fail, and then it is open whether a write was done. All
/// that was acknowledged is there, and a block holds one of the things that were written to it.
pub fn acknowledged() -> Result<()> {
    let disk = RamDisk::new()?;
    let prog = Prog::load("decline_random", &["percent=60"])?;
    let ubd = Ubd::add(&[
        "-t loop -q 2 --recovery=wait -f",
        &disk.node(),
        &format!("--bpf-fastpath={}", prog.name()),
    ])?;
    let mut threads: Vec<_> = (0..THREADS).map(Blocks::new).collect();
    kill_under(&ubd, "quiesced", cycles(), |_, done| {
        let file = open_direct(ubd.node(), true)?;
        thread::scope(|scope| {
            let running: Vec<_> = threads
                .iter_mut()
                .map(|blocks| scope.spawn(|| blocks.run(&file, done)))
                .collect();
            running
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread"))
        })
    })?;
    let failed: u64 = threads.iter().map(|blocks| blocks.failed).sum();
    let done: u64 = threads.iter().map(|blocks| blocks.done).sum();
    ensure!(
        failed > 0 && done > 10 * failed,
        "{failed} requests have failed and {done} have not"
    );
    let file = open_direct(disk.node(), false)?;
    for blocks in &mut threads {
        for block in 0..BLOCKS {
            blocks.read(&file, block).context("behind the device")?;
        }
    }
    ubd.del()
}

/// What the blocks of a thread may hold.
struct Blocks {
    first: usize,
    may_be: Vec<Vec<u64>>,
    next: u64,
    rng: Rng,
    failed: u64,
    done: u64,
}

impl Blocks {
    fn new(thread: usize) -> Blocks {
        Blocks {
            first: thread * BLOCKS,
            may_be: vec![vec![0]; BLOCKS],
            next: 1,
            rng: Rng::with_seed(thread as u64),
            failed: 0,
            done: 0,
        }
    }

    fn run(&mut self, file: &File, done: &AtomicBool) -> Result<()> {
        while !done.load(Ordering::SeqCst) {
            let block = self.rng.usize(0..BLOCKS);
            match self.rng.u32(0..20) {
                0..10 => self.write(file, block)?,
                10..19 => self.read(file, block)?,
                _ => match file.sync_data() {
                    Ok(()) => self.done += 1,
                    Err(err) => self.failure(err)?,
                },
            }
        }
        Ok(())
    }

    fn at(&self, block: usize) -> u64 {
        ((self.first + block) * BLOCK) as u64
    }

    fn write(&mut self, file: &File, block: usize) -> Result<()> {
        let value = self.next << 8 | self.first as u64;
        self.next += 1;
        let data = Aligned::copy_of(&value.to_ne_bytes().repeat(BLOCK / 8), 0);
        match file.write_all_at(&data, self.at(block)) {
            Ok(()) => {
                self.may_be[block] = vec![value];
                self.done += 1;
                Ok(())
            }
            Err(err) => {
                self.may_be[block].push(value);
                self.failure(err)
            }
        }
    }

    fn read(&mut self, file: &File, block: usize) -> Result<()> {
        let mut data = Aligned::new(BLOCK);
        if let Err(err) = file.read_exact_at(&mut data, self.at(block)) {
            return self.failure(err);
        }
        self.done += 1;
        let words: Vec<_> = data
            .chunks(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
            .collect();
        let may_be = &self.may_be[block];
        // A write that was cut off may have been done in parts; each part is of one write.
        for word in &words {
            ensure!(
                may_be.contains(word),
                "block {block} of thread {} holds {word:#x}, and should one of {may_be:x?}",
                self.first / BLOCKS
            );
        }
        if words.iter().all(|word| word == &words[0]) {
            // Nothing of a dead daemon comes later: what is there now stays.
            self.may_be[block] = vec![words[0]];
        }
        Ok(())
    }

    /// A request in hand when the daemon died; more do not come at once.
    fn failure(&mut self, err: std::io::Error) -> Result<()> {
        if err.raw_os_error() != Some(libc::EIO) {
            bail!("another error: {err}");
        }
        self.failed += 1;
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }
}
