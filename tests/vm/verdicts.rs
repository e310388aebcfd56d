// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver does with answers that it must not obey, and with errors that it must.

mod arithmetic;
mod rejected;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::{Control, Program};

use crate::support::backing::{noise, same};
use crate::support::io::{discard, open_direct, read_direct, Aligned};
use crate::support::{
    fails, object, seconds, sh, shipped_object, Counters, NullDisk, Prog, RamDisk, Test, Ubd,
};

pub const TESTS: &[Test] = &[
    Test {
        name: "verdicts/bad_ones_are_counted_and_declined",
        run: bad_ones,
    },
    Test {
        name: "verdicts/bad_alignment_on_4k_blocks",
        run: bad_alignment,
    },
    Test {
        name: "verdicts/write_to_a_read_only_slot",
        run: read_only_slot,
    },
    Test {
        name: "verdicts/errors_reach_the_reader",
        run: errors,
    },
    Test {
        name: "verdicts/ejection_and_revival",
        run: ejection,
    },
    Test {
        name: "verdicts/the_verifier_rejects",
        run: rejected::all,
    },
    Test {
        name: "verdicts/test_run_linear",
        run: arithmetic::linear,
    },
    Test {
        name: "verdicts/test_run_concat",
        run: arithmetic::concat,
    },
    Test {
        name: "verdicts/test_run_stripe",
        run: arithmetic::stripe,
    },
];

const BLOCK: usize = 4096;
/// Sectors of the window that a [`Subject`] shows.
const WINDOW: i64 = 16384;

/// How `tests/bpf/by_cookie.bpf.c` spoils its answer.
#[derive(Debug, Clone, Copy)]
enum Spoil {
    Return(i32),
    Length(i64),
    Longer(i64),
    Slot(i64),
    Sector(i64),
    Shift(i64),
}

impl Spoil {
    fn cookie(self) -> u64 {
        let (what, with) = match self {
            Spoil::Return(verdict) => (1, verdict.into()),
            Spoil::Length(sectors) => (2, sectors),
            Spoil::Longer(sectors) => (3, sectors),
            Spoil::Slot(behind) => (4, behind),
            Spoil::Sector(sector) => (5, sector),
            Spoil::Shift(sectors) => (6, sectors),
        };
        (with << 8) as u64 | what
    }
}

/// A device whose slot is the start of a disk, opened past the page cache. It is kept open, or
/// udev would read it at a time of its own and spoil the counts.
struct Subject {
    control: Control,
    disk: String,
    ubd: Ubd,
    open: File,
    prog: Prog,
}

impl Subject {
    fn new(disk: String, add: &str) -> Result<Subject> {
        let prog = Prog::load("by_cookie", &[])?;
        let ubd = Ubd::add(&["-t loop -f", &disk, "--sizelimit 8M", add])?;
        let open = open_direct(ubd.node(), true)?;
        let subject = Subject {
            control: Control::open()?,
            disk,
            ubd,
            open,
            prog,
        };
        subject.bind(0)?;
        Ok(subject)
    }

    fn bind(&self, cookie: u64) -> Result<()> {
        Ok(self.control.bind(self.ubd.id(), self.prog.name(), cookie)?)
    }

    /// What the driver says of the program.
    fn program(&self) -> Result<Program> {
        let all = self.control.programs()?;
        all.into_iter()
            .find(|program| program.name == self.prog.name())
            .context("the program is gone")
    }

    fn read(&self) -> std::io::Result<Vec<u8>> {
        let mut data = Aligned::new(BLOCK);
        self.open
            .read_exact_at(&mut data, 0)
            .map(|()| data.to_vec())
    }

    /// Writes two blocks and reads them back, looks for them on the disk, past all caches; gives
    /// what was counted for the writes and for the reads.
    fn write_and_read(&self, seed: usize) -> Result<(Counters, Counters)> {
        let start = self.ubd.counters()?;
        for nr in 0..2 {
            let data = Aligned::copy_of(noise(seed + nr, BLOCK), 0);
            self.open
                .write_all_at(&data, (nr * 3 * BLOCK) as u64)
                .context("failed to write")?;
        }
        let written = self.ubd.counters()?;
        let mut data = Aligned::new(BLOCK);
        for nr in 0..2 {
            self.open
                .read_exact_at(&mut data, (nr * 3 * BLOCK) as u64)
                .context("failed to read")?;
            same(&data, noise(seed + nr, BLOCK)).with_context(|| format!("block {nr}"))?;
        }
        let read = self.ubd.counters()?;
        for nr in 0..2 {
            same(
                &read_direct(&self.disk, (nr * 3 * BLOCK) as u64, BLOCK)?,
                noise(seed + nr, BLOCK),
            )
            .with_context(|| format!("block {nr} of the disk"))?;
        }
        Ok((written.since(&start), read.since(&written)))
    }

    /// Lets the program answer badly; `reason` must be told.
    fn bad(&self, spoil: Spoil, reason: &str) -> Result<()> {
        let before = self.program()?;
        self.bind(spoil.cookie())?;
        let (writes, reads) = self.write_and_read(spoil.cookie() as usize % 9973)?;
        all_bad(&writes, 2).context("writes")?;
        all_bad(&reads, 2).context("reads")?;
        ensure!(
            writes["write_bad"] == 2 && reads["read_bad"] == 2,
            "counted for another op: {}",
            reads.summary()
        );
        let after = self.program()?;
        ensure!(
            !after.ejected && after.bad_verdicts == before.bad_verdicts + 4,
            "the driver says {after:?}"
        );
        ensure!(
            after.reason.contains(reason),
            "the reason is `{}` instead of `{reason}`",
            after.reason
        );
        Ok(())
    }

    /// Honest again, the program maps again.
    fn good(&self) -> Result<()> {
        self.bind(0)?;
        let (writes, reads) = self.write_and_read(5)?;
        writes.all_mapped(2)?;
        reads.all_mapped(2)
    }
}

/// All `n` of them were bad, and went to the daemon.
fn all_bad(counted: &Counters, n: u64) -> Result<()> {
    let right = counted["bad"] == n
        && counted["declined"] == n
        && counted["mapped"] == 0
        && counted["zero"] == 0;
    ensure!(
        right,
        "not {n} bad verdicts, each declined: {}",
        counted.summary()
    );
    Ok(())
}

fn bad_ones() -> Result<()> {
    let disk = RamDisk::new()?;
    let subject = Subject::new(disk.node(), "--bpf-fastpath")?;
    subject.good()?;
    let cases = [
        (Spoil::Return(3), "no known verdict"),
        (Spoil::Return(i32::MAX), "no known verdict"),
        (
            Spoil::Return(-libc::EPERM),
            "an error that a disk does not have",
        ),
        (
            Spoil::Return(i32::MIN),
            "an error that a disk does not have",
        ),
        (Spoil::Length(0), "map_sectors is 0 or beyond"),
        (Spoil::Length(-1), "map_sectors is 0 or beyond"),
        (Spoil::Longer(1), "map_sectors is 0 or beyond"),
        (Spoil::Slot(0), "no such slot"),
        (Spoil::Slot(1 << 20), "no such slot"),
        // Behind the window, across its end, and with an end that wraps around into it.
        (Spoil::Sector(WINDOW), "outside the slot's window"),
        (Spoil::Sector(WINDOW - 7), "outside the slot's window"),
        (Spoil::Sector(1 << 50), "outside the slot's window"),
        (Spoil::Sector(-4), "outside the slot's window"),
    ];
    for (spoil, reason) in cases {
        subject
            .bad(spoil, reason)
            .with_context(|| format!("{spoil:?}"))?;
    }
    subject.good()?;

    // ZERO answers a read, and must not swallow a write.
    subject.bind(Spoil::Return(2).cookie())?;
    let before = subject.ubd.counters()?;
    ensure!(
        subject.read()?.iter().all(|byte| *byte == 0),
        "a ZERO read is not zero"
    );
    let counted = subject.ubd.counters()?.since(&before);
    ensure!(
        counted["read_zero"] == 1 && counted["declined"] == 0,
        "counted {}",
        counted.summary()
    );
    subject
        .open
        .write_all_at(&Aligned::copy_of(noise(8, BLOCK), 0), 0)?;
    all_bad(&subject.ubd.counters()?.since(&before).since(&counted), 1)?;
    same(&read_direct(&subject.disk, 0, BLOCK)?, noise(8, BLOCK))?;
    let reason = subject.program()?.reason;
    ensure!(
        reason.contains("ZERO for a write"),
        "the reason is `{reason}`"
    );
    subject.good()
}

fn bad_alignment() -> Result<()> {
    let disk = NullDisk::new(16, 4096, &[])?;
    let subject = Subject::new(disk.node(), "--bpf-fastpath")?;
    for spoil in [
        Spoil::Shift(1),
        Spoil::Shift(4),
        Spoil::Length(1),
        Spoil::Length(7),
    ] {
        subject
            .bad(spoil, "not a multiple of the logical block")
            .with_context(|| format!("{spoil:?}"))?;
    }
    subject.good()
}

fn read_only_slot() -> Result<()> {
    let disk = RamDisk::new()?;
    let subject = Subject::new(disk.node(), "")?;
    sh(format!(
        "ubd-bpf slot add {} {} --read-only --size 8M",
        subject.ubd.id(),
        disk.node()
    ))?;
    let (writes, reads) = subject.write_and_read(77)?;
    all_bad(&writes, 2).context("writes")?;
    reads.all_mapped(2).context("reads")?;
    let reason = subject.program()?.reason;
    ensure!(
        reason.contains("write to a read-only slot"),
        "the reason is `{reason}`"
    );
    Ok(())
}

fn errors() -> Result<()> {
    let disk = NullDisk::new(16, 512, &[("discard", "1")])?;
    let subject = Subject::new(disk.node(), "--bpf-fastpath")?;
    for errno in [libc::EIO, libc::ENOSPC, libc::EREMOTEIO, libc::ENODATA] {
        subject.bind(Spoil::Return(-errno).cookie())?;
        let before = subject.ubd.counters()?;
        let err = subject.read().err().context("the read succeeded")?;
        ensure!(
            err.raw_os_error() == Some(errno),
            "the reader got {err} instead of errno {errno}"
        );
        let counted = subject.ubd.counters()?.since(&before);
        let right = counted["read_error"] == 1 && counted["bad"] == 0 && counted["declined"] == 0;
        ensure!(right, "errno {errno}: counted {}", counted.summary());
    }

    // EOPNOTSUPP is for discards alone; to their callers it is as good as success.
    subject.bind(Spoil::Return(-libc::EOPNOTSUPP).cookie())?;
    let before = subject.ubd.counters()?;
    discard(&subject.open, 0, 65536)?;
    subject
        .read()
        .context("a read answered with EOPNOTSUPP did not go to the daemon")?;
    let counted = subject.ubd.counters()?.since(&before);
    let right =
        counted["discard_error"] == 1 && counted["read_bad"] == 1 && counted["declined"] == 1;
    ensure!(right, "counted {}", counted.summary());
    subject.good()
}

fn ejection() -> Result<()> {
    let disk = RamDisk::new()?;
    let subject = Subject::new(disk.node(), "--bpf-fastpath")?;
    let bad = Spoil::Sector(-4).cookie();

    // Three times 40 with pauses are not 64 within a second.
    subject.bind(bad)?;
    for _ in 0..3 {
        for _ in 0..40 {
            subject.read()?;
        }
        std::thread::sleep(Duration::from_millis(1500));
    }
    let program = subject.program()?;
    ensure!(
        !program.ejected && program.bad_verdicts == 120,
        "after 3 × 40 bad verdicts: {program:?}"
    );

    let before = subject.ubd.counters()?;
    let start = Instant::now();
    while subject.ubd.attr("ubd/program_state")? == "live" {
        ensure!(
            start.elapsed() < seconds(60),
            "bad verdicts for a minute, and not ejected"
        );
        for _ in 0..16 {
            subject
                .read()
                .context("the daemon should have served this")?;
        }
    }
    ensure!(
        subject.ubd.attr("ubd/program_state")? == "ejected",
        "program_state"
    );
    ensure!(
        subject.ubd.attr("ubd/program")? == "by_cookie",
        "the device has forgotten its program"
    );
    let counted = subject.ubd.counters()?.since(&before);
    ensure!(
        counted["bad"] >= 64,
        "ejected after {} bad verdicts",
        counted["bad"]
    );

    // Out of service: everything declines, nothing more is bad.
    let (writes, reads) = subject.write_and_read(3)?;
    for counted in [writes, reads] {
        ensure!(
            counted["bad"] == 0,
            "an ejected program was asked: {}",
            counted.summary()
        );
        counted.all_declined(2)?;
    }
    let text = sh("ubd-bpf show by_cookie")?;
    ensure!(
        text.contains("ejected") && text.contains("outside the slot's window"),
        "`ubd-bpf show` says\n{text}"
    );
    let message = fails(2, format!("ubd-bpf bind {} by_cookie", subject.ubd.id()))?;
    ensure!(
        message.contains("ejected") && message.contains("show by_cookie"),
        "bind says `{message}`"
    );

    // Mended in place; the binding is still there.
    subject.prog.replace(&shipped_object("linear"), &[])?;
    ensure!(
        subject.ubd.attr("ubd/program_state")? == "live",
        "a replaced program is not live"
    );
    let (writes, reads) = subject.write_and_read(4)?;
    writes.all_mapped(2)?;
    reads.all_mapped(2)?;
    let program = subject.program()?;
    let clean = !program.ejected && program.bad_verdicts == 0 && program.reason.is_empty();
    ensure!(clean, "after replace: {program:?}");
    // A replacement that the verifier rejects changes nothing.
    fails(
        2,
        format!(
            "ubd-bpf load {} --name by_cookie --replace",
            object("reject/write_op").display()
        ),
    )?;
    subject.good()
}
