// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver does not forward stays the server's.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{bail, ensure, Context, Result};
use ubd_bpf::uapi::{ubd, ublk};

use super::server::{Device, Event, Setup, DEPTH};
use crate::support::backing::{noise, same};
use crate::support::io::{discard, open_direct, read_direct, write_direct, zero_out, Aligned};
use crate::support::{fails, Files, LoopDisk, RamDisk};

const SECTORS: u64 = 8 << 11;
const EINVAL: i32 = -libc::EINVAL;
const EFAULT: i32 = -libc::EFAULT;
const EOPNOTSUPP: i32 = -libc::EOPNOTSUPP;

/// Slot and sector, how much, what to install; and the result.
type Try = ((u32, u64), u32, u64, i32);

/// One command after the other, each of which must be refused; then the request is answered.
#[derive(Default)]
struct Trial {
    op: u32,
    tries: Vec<Try>,
    /// How many were refused.
    done: usize,
    problem: Option<String>,
}

impl Trial {
    fn event(&mut self, event: &mut Event<'_>) -> Result<()> {
        if event.result < 0 {
            match self.tries.get(self.done) {
                Some(&(.., expected)) if expected == event.result => self.done += 1,
                other => {
                    self.problem = Some(format!("{} instead of {other:?}", event.result));
                    return event.answer(-libc::EIO);
                }
            }
        } else if event.op() != self.op || self.tries.is_empty() {
            // Somebody else's.
            let data = [ublk::IO_OP_READ, ublk::IO_OP_WRITE].contains(&event.op());
            return if data {
                event.forward()
            } else {
                event.answer(0)
            };
        } else if self.done > 0 {
            self.problem = Some(format!("number {} was not refused", self.done));
        }
        match self.tries.get(self.done) {
            Some(&(at, sectors, install, _)) => {
                event.queue.forward(event.tag, at, sectors, install)
            }
            None => {
                let len = (event.desc.nr_sectors << 9) as usize;
                let op = event.op();
                let buffer = &mut event.queue.buffer(event.tag)[..len.min(4096)];
                match op {
                    ublk::IO_OP_READ => buffer.copy_from_slice(noise(21, len)),
                    ublk::IO_OP_WRITE if *buffer != *noise(22, len) => {
                        self.problem = Some("the data of the write is not in the buffer".into());
                    }
                    _ => {}
                }
                event.answer(len as i32)
            }
        }
    }
}

struct Court {
    trial: Arc<Mutex<Trial>>,
    device: Device,
}

impl Court {
    fn open(setup: &Setup<'_>) -> Result<Court> {
        let trial = Arc::new(Mutex::new(Trial::default()));
        let shared = trial.clone();
        let device = Device::start(setup, move |event| {
            let mut trial = shared.lock().unwrap_or_else(PoisonError::into_inner);
            trial.event(event)
        })?;
        Ok(Court { trial, device })
    }

    /// `act` makes the request, and must succeed; all tries must have been refused by then.
    fn try_all(&self, op: u32, tries: Vec<Try>, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let count = tries.len();
        let lock = || self.trial.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Trial {
            op,
            tries,
            ..Trial::default()
        };
        let result = act();
        let trial = std::mem::take(&mut *lock());
        if let Some(problem) = trial.problem {
            bail!("op {op}, try {}: {problem}", trial.done);
        }
        result?;
        ensure!(
            trial.done == count,
            "op {op}: only {} of {count} were refused",
            trial.done
        );
        Ok(())
    }
}

/// Each way to be wrong, for each operation; the server answers the request all the same.
pub fn refused() -> Result<()> {
    let disks = [RamDisk::new()?, RamDisk::new()?];
    let nodes = disks.each_ref().map(RamDisk::node);
    let slots = [
        (Path::new(&*nodes[0]), true),
        (Path::new(&*nodes[1]), false),
    ];
    let end = crate::support::RAM_DISK_MIB << 11;
    let mut setup = Setup::new(&slots, SECTORS);
    setup.params.types |= ublk::PARAM_TYPE_DISCARD;
    setup.params.basic.attrs = ublk::ATTR_VOLATILE_CACHE | ublk::ATTR_FUA;
    setup.params.discard.discard_granularity = 512;
    setup.params.discard.max_discard_sectors = 1 << 11;
    setup.params.discard.max_write_zeroes_sectors = 1 << 11;
    setup.params.discard.max_discard_segments = 1;
    let court = Court::open(&setup)?;
    let file = open_direct(court.device.ubd.node(), true)?;

    let word = Box::new(0u64);
    let word_at = &raw const *word as u64;
    let install = |addr| {
        Box::new(ubd::Install {
            addr,
            expect: 0,
            value: 1,
        })
    };
    static READ_ONLY: u64 = 0;
    let installs = [
        (install(word_at + 4), EINVAL),
        (install(0), EFAULT),
        (install(&raw const READ_ONLY as u64), EFAULT),
        (install(!7), EFAULT),
        (install(0xffff_8880_0000_0000), EFAULT),
    ];
    let mut common: Vec<Try> = vec![
        ((2, 16), 0, 0, EINVAL),
        ((63, 16), 0, 0, EINVAL),
        ((64, 16), 0, 0, EINVAL),
        ((u32::MAX, 16), 0, 0, EINVAL),
        ((0, end), 0, 0, EINVAL),
        ((0, end - 7), 0, 0, EINVAL),
        ((0, u64::MAX - 3), 0, 0, EINVAL),
        ((0, 1 << 63), 0, 0, EINVAL),
        ((0, 16), 9, 0, EINVAL),
        ((0, 16), u32::MAX, 0, EINVAL),
        ((0, 16), 0, 1, EFAULT),
        ((0, 16), 0, u64::MAX - 8, EFAULT),
    ];
    common.extend(
        installs
            .iter()
            .map(|(install, result)| ((0, 16), 0, &raw const **install as u64, *result)),
    );
    let mut wrong_for_writes = common.clone();
    wrong_for_writes.push(((1, 16), 0, 0, EINVAL));

    write_direct(&nodes[0], 16 << 9, noise(99, 4096))?;
    let before = court.device.ubd.counters()?;
    court.try_all(ublk::IO_OP_READ, common, || {
        let mut is = Aligned::new(4096);
        file.read_exact_at(&mut is, 16 << 9)?;
        same(&is, noise(21, 4096))
    })?;
    court.try_all(ublk::IO_OP_WRITE, wrong_for_writes.clone(), || {
        let data = Aligned::copy_of(noise(22, 4096), 0);
        Ok(file.write_all_at(&data, 16 << 9)?)
    })?;
    court.try_all(ublk::IO_OP_DISCARD, wrong_for_writes.clone(), || {
        Ok(discard(&file, 16 << 9, 4096)?)
    })?;
    // The RAM disk writes no zeroes by itself, nor does anything else to make them.
    let mut zeroes = wrong_for_writes;
    zeroes.push(((0, 16), 0, 0, EOPNOTSUPP));
    court.try_all(ublk::IO_OP_WRITE_ZEROES, zeroes, || {
        Ok(zero_out(&file, 16 << 9, 4096)?)
    })?;
    let flush = vec![((0, 0), 0, 0, EINVAL), ((0, 0), 8, 0, EINVAL)];
    court.try_all(ublk::IO_OP_FLUSH, flush, || Ok(file.sync_all()?))?;

    let count = court.device.ubd.counters()?.since(&before);
    ensure!(
        count["forwarded"] == 0 && count["write_declined"] == 1,
        "{}",
        count.summary()
    );
    ensure!(*word == 0, "a word was installed");
    same(&read_direct(&nodes[0], 16 << 9, 4096)?, noise(99, 4096))
        .context("the slot was written to")?;
    drop(file);
    court.device.end()
}

/// Slots of larger blocks, and a tag that is nobody's.
pub fn misaligned() -> Result<()> {
    let files = Files::ext4()?;
    let disk = LoopDisk::new(&files.file("disk", 16 << 20)?, "--sector-size 4096")?;
    let node = disk.node();
    let slots = [(Path::new(&*node), true)];
    let mut setup = Setup::new(&slots, SECTORS);
    setup.params.basic.logical_bs_shift = 12;
    setup.params.basic.io_min_shift = 12;
    setup.params.basic.io_opt_shift = 12;
    let court = Court::open(&setup)?;
    let file = open_direct(court.device.ubd.node(), true)?;
    let tries = vec![
        ((0, 1), 0, 0, EINVAL),
        ((0, 4), 0, 0, EINVAL),
        ((0, 8), 1, 0, EINVAL),
        ((0, 8), 7, 0, EINVAL),
    ];
    court.try_all(ublk::IO_OP_READ, tries, || {
        let mut is = Aligned::new(4096);
        file.read_exact_at(&mut is, 8 << 9)?;
        same(&is, noise(21, 4096))
    })?;
    drop(file);
    court.device.end()?;

    // A request that the server does not have, twice.
    let disk = RamDisk::new()?;
    let node = disk.node();
    let refused = Arc::new(Mutex::new(Vec::new()));
    let seen = refused.clone();
    let device = Device::start(
        &Setup::new(&[(Path::new(&node), true)], SECTORS),
        move |event| {
            if event.result < 0 {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push((event.tag, event.result));
                // Its FETCH is still there: nothing more to do for this tag.
                return Ok(());
            }
            let idle = (event.tag + DEPTH / 2) % DEPTH;
            event.queue.forward(idle, (0, 0), 0, 0)?;
            event.forward()
        },
    )?;
    let file = open_direct(device.ubd.node(), true)?;
    file.read_exact_at(&mut Aligned::new(4096), 0)?;
    drop(file);
    let refused = std::mem::take(&mut *refused.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(
        !refused.is_empty() && refused.iter().all(|(_, result)| *result == EINVAL),
        "{refused:?}"
    );
    device.end()
}

/// A target without files has nothing to forward to.
pub fn null_target() -> Result<()> {
    let said = fails(2, "ubd add -t null -s 16M --forward")?;
    ensure!(said.contains("--forward"), "{said}");
    Ok(())
}
