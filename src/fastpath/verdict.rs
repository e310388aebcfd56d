// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asking a program about a made-up io, without doing any I/O.

use super::{Loaded, Name, Opened, Setting, Source};
use crate::control::Control;
use crate::error::Result;
use crate::uapi::{c_text, ubd, Plain};
use nix::errno::Errno;
use std::fmt;

/// The io to ask about, and the device that it is to happen on. Sectors are 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// `OP_*` of [`crate::uapi::ubd`].
    pub op: u32,
    /// First sector on the device.
    pub sector: u64,
    /// Length in sectors, not 0.
    pub sectors: u32,
    /// What the program was bound with.
    pub cookie: u64,
    /// Slots of the device; numbers below this are valid.
    pub slots: u32,
    /// Length of each slot in sectors.
    pub slot_sectors: u64,
    /// Logical block of device and slots, in bytes.
    pub block_size: u32,
}

/// What the driver would do with the program's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Do it in slot `slot`, from `sector` of its window on.
    Map { slot: u32, sector: u64 },
    /// Ask the daemon.
    Decline,
    /// Reads are zeroes; discards need nothing.
    Zero,
    /// Fail with this errno (positive).
    Error(i32),
    /// Refuse the answer `returned`, count it, and ask the daemon.
    Bad { returned: i32, reason: String },
}

/// A verdict, and for how much of the io it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    /// Sectors, from the first on; the program is asked again for the rest.
    pub sectors: u32,
}

/// Asks the registered program `name`.
///
/// # Errors
/// [`crate::Kind::NotFound`] if there is none; [`crate::Kind::Busy`] if the driver has ejected it.
pub fn ask(name: &Name, question: &Question) -> Result<Answer> {
    let mut run = ubd::TestRun {
        io: ubd::BpfIo {
            sector: question.sector,
            cookie: question.cookie,
            nr_sectors: question.sectors,
            op: question.op,
            nr_slots: question.slots,
            map_sectors: question.sectors,
            ..ubd::BpfIo::zeroed()
        },
        slot_sectors: question.slot_sectors,
        block_size: question.block_size,
        ..ubd::TestRun::zeroed()
    };
    Control::open()?.test_run(name.as_str(), &mut run)?;
    Ok(Answer::from(&run))
}

/// Asks the program in `source`, which is in the driver for that moment only.
pub fn ask_object(source: &Source, settings: &[Setting], question: &Question) -> Result<Answer> {
    // A name that nobody else takes; there is no link to it but ours.
    let name: Name = format!("test.{}", std::process::id()).parse()?;
    let opened = Opened::open(source, Some(&name), settings)?;
    // Tells a missing driver from a bad object.
    Control::open()?;
    let _link = Loaded::load(opened)?.attach()?;
    ask(&name, question)
}

impl From<&ubd::TestRun> for Answer {
    fn from(run: &ubd::TestRun) -> Self {
        let io = &run.io;
        let verdict = match run.verdict {
            returned if run.bad != 0 => Verdict::Bad {
                returned,
                reason: c_text(&run.reason),
            },
            ubd::MAP_DECLINE => Verdict::Decline,
            ubd::MAP_BACKING => Verdict::Map {
                slot: io.slot,
                sector: io.map_sector,
            },
            ubd::MAP_ZERO => Verdict::Zero,
            returned => Verdict::Error(returned.wrapping_neg()),
        };
        Answer {
            verdict,
            sectors: io.map_sectors,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sectors = self.sectors;
        match &self.verdict {
            Verdict::Map { slot, sector } => {
                write!(f, "MAP slot {slot} sector {sector} ({sectors} sectors)")
            }
            Verdict::Decline => write!(f, "DECLINE ({sectors} sectors)"),
            Verdict::Zero => write!(f, "ZERO ({sectors} sectors)"),
            Verdict::Error(errno) => write!(f, "ERROR {} ({sectors} sectors)", errno_name(*errno)),
            Verdict::Bad { returned, reason } => {
                write!(f, "BAD: {reason} (it returned {returned})")
            }
        }
    }
}

/// `EIO` for 5.
pub fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(verdict: i32, bad: u32) -> String {
        let io = ubd::BpfIo {
            slot: 3,
            map_sector: 128,
            map_sectors: 8,
            ..ubd::BpfIo::zeroed()
        };
        let mut run = ubd::TestRun {
            io,
            verdict,
            bad,
            ..ubd::TestRun::zeroed()
        };
        run.reason[..4].copy_from_slice(b"why\0");
        Answer::from(&run).to_string()
    }

    #[test]
    fn answers_in_words() {
        assert_eq!(answer(0, 0), "DECLINE (8 sectors)");
        assert_eq!(answer(1, 0), "MAP slot 3 sector 128 (8 sectors)");
        assert_eq!(answer(2, 0), "ZERO (8 sectors)");
        assert_eq!(answer(-libc::EREMOTEIO, 0), "ERROR EREMOTEIO (8 sectors)");
        assert_eq!(answer(77, 1), "BAD: why (it returned 77)");
        assert_eq!(answer(i32::MIN, 1), "BAD: why (it returned -2147483648)");
    }
}
