// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations on a device beside a model of it, a plain vector of bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;

use anyhow::{ensure, Context, Result};
use fastrand::Rng;

use super::backing::{noise, same};
use super::io::{
    discard, forget_cached, open_buffered, open_direct, write_flags, zero_out, Aligned,
};
use super::Ubd;

/// Threads of a batch, each with a part of the device of its own.
const THREADS: usize = 4;

/// What a device should hold, and how to put it to the test.
pub struct Model {
    /// The content, byte by byte.
    pub bytes: Vec<u8>,
    /// Logical block, bytes.
    block: u64,
    /// Whether the device offers discard.
    discards: bool,
    /// Whether discarded bytes read as zeroes; otherwise each sector may also be what it was.
    discard_zeroes: bool,
}

/// How many operations of each kind there were.
#[derive(Debug, Default)]
pub struct Done {
    pub flushes: u64,
    pub discards: u64,
    pub zero_outs: u64,
    pub dsync_writes: u64,
}

struct Node {
    direct: File,
    buffered: File,
}

impl Model {
    /// A model of `device`, which holds `bytes`.
    pub fn of(device: &Ubd, bytes: Vec<u8>, discard_zeroes: bool) -> Result<Model> {
        let block = device.attr("queue/logical_block_size")?.parse()?;
        let discards = device.attr("queue/discard_max_bytes")? != "0";
        Ok(Model {
            bytes,
            block,
            discards,
            discard_zeroes,
        })
    }

    /// Logical block of the device, bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Does `count` random operations on `node` and compares every byte read; at last the whole
    /// device, both ways.
    pub fn run(&mut self, node: &str, seed: u64, count: usize) -> Result<Done> {
        let file = Node {
            direct: open_direct(node, true)?,
            buffered: open_buffered(node)?,
        };
        let mut rng = Rng::with_seed(seed);
        let mut done = Done::default();
        for number in 0..count {
            let op = rng.u32(0..100);
            let result = match op {
                0..25 => self.read_direct(&file, &mut rng),
                25..50 => self.write_direct(&file, &mut rng),
                50..60 => self.read_buffered(&file, &mut rng),
                60..72 => self.write_buffered(&file, &mut rng),
                72..78 => self.write_dsync(&file, &mut rng, &mut done),
                78..84 => self.discard(&file, &mut rng, &mut done),
                84..90 => self.zero_out(&file, &mut rng, &mut done),
                90..95 => self.flush(&file, &mut done),
                _ => self.batch(&file, &mut rng),
            };
            result.with_context(|| format!("operation {number} (kind {op}) of seed {seed}"))?;
        }
        file.buffered.sync_all().context("failed to sync")?;
        done.flushes += 1;
        let mut is = vec![0; self.bytes.len()];
        file.buffered
            .read_exact_at(&mut is, 0)
            .context("failed to read all through the cache")?;
        same(&is, &self.bytes).context("at the end, through the page cache")?;
        let mut is = Aligned::new(self.bytes.len());
        file.direct
            .read_exact_at(&mut is, 0)
            .context("failed to read all")?;
        same(&is, &self.bytes).context("at the end, past the page cache")?;
        Ok(done)
    }

    fn read_direct(&self, file: &Node, rng: &mut Rng) -> Result<()> {
        let (at, len) = blocks(rng, self.block, self.bytes.len());
        read_and_compare(file, rng, at, &self.bytes[at..at + len])
    }

    fn write_direct(&mut self, file: &Node, rng: &mut Rng) -> Result<()> {
        let (at, len) = blocks(rng, self.block, self.bytes.len());
        write(file, rng, at, &mut self.bytes[at..at + len])
    }

    fn read_buffered(&self, file: &Node, rng: &mut Rng) -> Result<()> {
        let (at, len) = blocks(rng, 1, self.bytes.len());
        let mut is = vec![0; len];
        file.buffered
            .read_exact_at(&mut is, at as u64)
            .with_context(|| format!("read {len} at {at}"))?;
        same(&is, &self.bytes[at..at + len])
            .with_context(|| format!("cached read of {len} at {at}"))
    }

    fn write_buffered(&mut self, file: &Node, rng: &mut Rng) -> Result<()> {
        let (at, len) = blocks(rng, 1, self.bytes.len());
        let data = noise(rng.usize(..), len);
        file.buffered
            .write_all_at(data, at as u64)
            .with_context(|| format!("write {len} at {at}"))?;
        self.bytes[at..at + len].copy_from_slice(data);
        Ok(())
    }

    /// A direct write that is durable when it returns: FUA.
    fn write_dsync(&mut self, file: &Node, rng: &mut Rng, done: &mut Done) -> Result<()> {
        let (at, len) = blocks(rng, self.block, self.bytes.len().min(64 << 10));
        let data = Aligned::copy_of(noise(rng.usize(..), len), 0);
        let n = write_flags(&file.direct, &data, at as u64, libc::RWF_DSYNC)
            .with_context(|| format!("dsync write {len} at {at}"))?;
        ensure!(n == len, "dsync write of {len} at {at} wrote {n}");
        self.bytes[at..at + len].copy_from_slice(&data);
        done.dsync_writes += 1;
        Ok(())
    }

    fn discard(&mut self, file: &Node, rng: &mut Rng, done: &mut Done) -> Result<()> {
        let (at, len) = blocks(rng, self.block, self.bytes.len());
        // What is dirty in the cache is dropped unwritten, and what the disk then leaves as it was
        // is older than that: a RAM disk leaves its pages that are discarded in part, at the ends of
        // the range and of each piece of it that went another way.
        if !self.discard_zeroes {
            file.buffered.sync_data()?;
        }
        let result = discard(&file.buffered, at as u64, len as u64);
        if !self.discards {
            let errno = result.err().and_then(|err| err.raw_os_error());
            ensure!(
                errno == Some(libc::EOPNOTSUPP),
                "discard without support gave {errno:?}"
            );
            return Ok(());
        }
        result.with_context(|| format!("discard {len} at {at}"))?;
        done.discards += 1;
        let mut is = Aligned::new(len);
        file.direct
            .read_exact_at(&mut is, at as u64)
            .with_context(|| format!("read {len} at {at}"))?;
        let model = &mut self.bytes[at..at + len];
        for (sector, (is, was)) in is.chunks(512).zip(model.chunks_mut(512)).enumerate() {
            let zero = is == &[0; 512][..];
            ensure!(
                zero || !self.discard_zeroes && is == was,
                "sector {sector} of {len} discarded bytes at {at} is neither zero nor what it was"
            );
            was.copy_from_slice(is);
        }
        // The kernel zeroes the ends of the range in its cache, whatever the disk made of them.
        file.buffered.sync_data()?;
        forget_cached(&file.buffered, at as u64, len as u64);
        Ok(())
    }

    fn zero_out(&mut self, file: &Node, rng: &mut Rng, done: &mut Done) -> Result<()> {
        let (at, len) = blocks(rng, self.block, self.bytes.len());
        zero_out(&file.buffered, at as u64, len as u64)
            .with_context(|| format!("zero {len} at {at}"))?;
        self.bytes[at..at + len].fill(0);
        done.zero_outs += 1;
        read_and_compare(file, rng, at, &self.bytes[at..at + len])
    }

    fn flush(&self, file: &Node, done: &mut Done) -> Result<()> {
        done.flushes += 1;
        file.direct.sync_data().context("failed to flush")
    }

    /// Reads and writes from several threads at once.
    fn batch(&mut self, file: &Node, rng: &mut Rng) -> Result<()> {
        let block = self.block;
        // At pages: no cached page belongs to two threads.
        let part = (self.bytes.len() / THREADS).next_multiple_of(4096);
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .bytes
                .chunks_mut(part)
                .enumerate()
                .map(|(number, bytes)| {
                    let mut rng = rng.fork();
                    scope.spawn(move || -> Result<()> {
                        for _ in 0..4 {
                            let (at, len) = blocks(&mut rng, block, bytes.len().min(1 << 20));
                            let bytes = &mut bytes[at..at + len];
                            let at = number * part + at;
                            write(file, &mut rng, at, bytes)?;
                            read_and_compare(file, &mut rng, at, bytes)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("a thread of the batch"))
        })
        .context("several threads at once")
    }
}

fn read_and_compare(file: &Node, rng: &mut Rng, at: usize, should_be: &[u8]) -> Result<()> {
    let len = should_be.len();
    let mut is = Aligned::shifted(len, rng.usize(..8) * 512);
    file.direct
        .read_exact_at(&mut is, at as u64)
        .with_context(|| format!("read {len} at {at}"))?;
    same(&is, should_be).with_context(|| format!("read of {len} at {at}"))
}

fn write(file: &Node, rng: &mut Rng, at: usize, model: &mut [u8]) -> Result<()> {
    let data = noise(rng.usize(..), model.len());
    let buffer = Aligned::copy_of(data, rng.usize(..8) * 512);
    file.direct
        .write_all_at(&buffer, at as u64)
        .with_context(|| format!("write {} at {at}", data.len()))?;
    model.copy_from_slice(data);
    Ok(())
}

/// A random range in whole blocks: mostly short, sometimes longer than one bio can be.
fn blocks(rng: &mut Rng, block: u64, size: usize) -> (usize, usize) {
    let block = block as usize;
    let longest = match rng.u32(0..20) {
        0..10 => 8 << 10,
        10..16 => 64 << 10,
        16..19 => 512 << 10,
        _ => 5 << 18, // more than the 1 MiB that a bio of single pages holds
    };
    let blocks = (longest.min(size) / block).max(1);
    let len = rng.usize(1..=blocks) * block;
    let at = rng.usize(0..=(size - len) / block) * block;
    (at, len)
}
