// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log of the kernel's dm-log-writes, which has every write in the order in which it could no
//! longer be lost: a plain write comes with the flush that followed its end, a FUA write when it has
//! ended. What a power cut leaves, at worst, is the log up to some entry.
//!
//! ```text
//! sector 0          super: magic, version, number of entries (u64), sector size (u32)
//! then, repeatedly  one sector: sector, nr_sectors, flags, data_len (u64); a mark has its text here
//!                   nr_sectors of data, unless it is a discard
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{bail, ensure, Context, Result};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

pub const SECTOR: usize = 512;

/// What was logged.
#[derive(Debug)]
pub enum What {
    /// Data for a sector on; none where it was but a flush.
    Write { sector: u64, data: Vec<u8> },
    /// By whoever looks after the test.
    Mark(String),
}

#[derive(Debug)]
pub struct Entry {
    pub what: What,
    pub flush: bool,
    pub fua: bool,
}

impl Entry {
    /// Whether everything up to here was durable at some moment.
    pub fn is_point(&self) -> bool {
        self.flush || self.fua || matches!(self.what, What::Mark(_))
    }
}

/// Reads the log on `node`, which must not be written to any more.
pub fn read(node: &str) -> Result<Vec<Entry>> {
    let log = File::open(node).with_context(|| format!("failed to open `{node}`"))?;
    let sector = |number: u64| -> Result<[u8; SECTOR]> {
        let mut bytes = [0; SECTOR];
        log.read_exact_at(&mut bytes, number * SECTOR as u64)?;
        Ok(bytes)
    };
    let head = sector(0)?;
    ensure!(
        word(&head, 0) == MAGIC && word(&head, 1) == VERSION,
        "`{node}` holds no log"
    );
    // The low half of the fourth word.
    ensure!(
        word(&head, 3) as u32 as usize == SECTOR,
        "a log of other sectors"
    );
    let mut entries = Vec::new();
    let mut at = 1;
    for number in 0..word(&head, 2) {
        let head = sector(at)?;
        let [first, sectors, flags, len] = [0, 1, 2, 3].map(|index| word(&head, index));
        at += 1;
        if flags & DISCARD != 0 {
            bail!("entry {number} is a discard, and nobody has discarded");
        }
        let what = if flags & MARK != 0 {
            let text = head[32..].get(..len as usize).context("a mark too long")?;
            What::Mark(String::from_utf8_lossy(text).into_owned())
        } else {
            let mut data = vec![0; sectors as usize * SECTOR];
            log.read_exact_at(&mut data, at * SECTOR as u64)
                .with_context(|| format!("failed to read entry {number}"))?;
            at += sectors;
            What::Write {
                sector: first,
                data,
            }
        };
        entries.push(Entry {
            what,
            flush: flags & FLUSH != 0,
            fua: flags & FUA != 0,
        });
    }
    Ok(entries)
}

fn word(bytes: &[u8; SECTOR], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[index * 8..][..8]);
    u64::from_le_bytes(word)
}
