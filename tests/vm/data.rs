// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes: what is written is read back, and lies where it should in the backing.

use anyhow::{ensure, Context, Result};

use crate::support::backing::{Backing, Kind};
use crate::support::model::{Done, Model};
use crate::support::{sh, Counters, Fio, Prog, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("data/null_q1", || null(1)),
    Test::new("data/null_q4", || null(4)),
    Test::new("data/null_mapped_to_zero", null_mapped_to_zero),
    Test::new("data/fio_disk_declined_q1", || fio(Kind::Disk, false, 1)),
    Test::new("data/fio_disk_declined_q4", || fio(Kind::Disk, false, 4)),
    Test::new("data/fio_disk_mapped_q1", || fio(Kind::Disk, true, 1)),
    Test::new("data/fio_disk_mapped_q4", || fio(Kind::Disk, true, 4)),
    Test::new("data/fio_disk4k_mapped_q1", || fio(Kind::Disk4k, true, 1)),
    Test::new("data/fio_file_direct_declined_q1", || {
        fio(Kind::FileDirect, false, 1)
    }),
    Test::new("data/fio_file_direct_declined_q4", || {
        fio(Kind::FileDirect, false, 4)
    }),
    Test::new("data/fio_file_direct_mapped_q1", || {
        fio(Kind::FileDirect, true, 1)
    }),
    Test::new("data/fio_file_direct_mapped_q4", || {
        fio(Kind::FileDirect, true, 4)
    }),
    Test::new("data/fio_file_buffered_declined_q1", || {
        fio(Kind::FileBuffered, false, 1)
    }),
    Test::new("data/fio_file_buffered_declined_q4", || {
        fio(Kind::FileBuffered, false, 4)
    }),
    Test::new("data/fio_file_buffered_mapped_q1", || {
        fio(Kind::FileBuffered, true, 1)
    }),
    Test::new("data/fio_file_buffered_mapped_q4", || {
        fio(Kind::FileBuffered, true, 4)
    }),
    Test::new("data/model_disk_declined", || {
        model(Kind::Disk, By::Daemon, 1)
    }),
    Test::new("data/model_disk_mapped", || {
        model(Kind::Disk, By::Linear, 1)
    }),
    Test::new("data/model_disk_mixed", || {
        model(Kind::Disk, By::Random(50), 4)
    }),
    Test::new("data/model_disk_checker", || {
        model(Kind::Disk, By::Checker, 4)
    }),
    Test::new("data/model_disk_split", || {
        model(Kind::Disk, By::OneBlock, 1)
    }),
    Test::new("data/model_disk4k_declined", || {
        model(Kind::Disk4k, By::Daemon, 1)
    }),
    Test::new("data/model_disk4k_mapped", || {
        model(Kind::Disk4k, By::Linear, 1)
    }),
    Test::new("data/model_disk4k_mixed", || {
        model(Kind::Disk4k, By::Random(50), 1)
    }),
    Test::new("data/model_disk4k_split", || {
        model(Kind::Disk4k, By::OneBlock, 1)
    }),
    Test::new("data/model_file_direct_declined", || {
        model(Kind::FileDirect, By::Daemon, 1)
    }),
    Test::new("data/model_file_direct_mapped", || {
        model(Kind::FileDirect, By::Linear, 1)
    }),
    Test::new("data/model_file_direct_mixed_0", || {
        model(Kind::FileDirect, By::Random(0), 1)
    }),
    Test::new("data/model_file_direct_mixed_50", || {
        model(Kind::FileDirect, By::Random(50), 4)
    }),
    Test::new("data/model_file_direct_mixed_100", || {
        model(Kind::FileDirect, By::Random(100), 1)
    }),
    Test::new("data/model_file_direct_split", || {
        model(Kind::FileDirect, By::OneBlock, 1)
    }),
    Test::new("data/model_file_buffered_declined", || {
        model(Kind::FileBuffered, By::Daemon, 4)
    }),
    Test::new("data/model_file_buffered_mapped", || {
        model(Kind::FileBuffered, By::Linear, 1)
    }),
    Test::new("data/model_file_buffered_mixed", || {
        model(Kind::FileBuffered, By::Random(50), 4)
    }),
    Test::new("data/model_notices_a_wrong_map", wrong_map),
];

/// The null target drops what is written: only that all of it reaches the daemon can be seen.
fn null(queues: u32) -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 64M", &format!("-q {queues}")])?;
    let before = ubd.counters()?;
    let ios = Fio::new(&ubd.node(), 2000).run()?;
    ubd.counters()?.since(&before).all_declined(ios)
}

fn null_mapped_to_zero() -> Result<()> {
    let _prog = Prog::load("null_ok", &[])?;
    let ubd = Ubd::add(&["-t null -s 64M --bpf-fastpath=null_ok"])?;
    let before = ubd.counters()?;
    let ios = Fio::new(&ubd.node(), 2000).run()?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["declined"] == 0 && count["mapped"] == 0 && count["bad"] == 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["zero"] >= ios,
        "zero is less than {ios}: {}",
        count.summary()
    );
    let sectors = count["read_zero_sectors"] + count["write_zero_sectors"];
    ensure!(
        sectors >= ios * 8,
        "{ios} I/Os of 8 sectors: {}",
        count.summary()
    );
    Ok(())
}

fn fio(kind: Kind, mapped: bool, queues: u32) -> Result<()> {
    let backing = Backing::new(kind)?;
    let fastpath = if mapped { "--bpf-fastpath" } else { "" };
    let ubd = backing.device(&format!("-q {queues} {fastpath}"))?;
    let before = ubd.counters()?;
    // One job a queue, so that every queue has work; each in a part of its own.
    let part = backing.window.len() as u64 / u64::from(queues) / 4096 * 4096;
    let ios = Fio::verify(&ubd.node(), 1600 / u64::from(queues))
        .option(&format!("numjobs={queues}"))
        .option(&format!("size={part}"))
        .option(&format!("offset_increment={part}"))
        .run()?;
    let count = ubd.counters()?.since(&before);
    ensure!(ios >= 1500, "fio did only {ios} I/Os");
    if !mapped {
        return count.all_declined(ios);
    }
    count.all_mapped(ios)?;
    ensure!(
        (count["file_inline"] + count["file_worker"] >= ios) == kind.is_file(),
        "file_inline and file_worker have what goes to files, and only that: {}",
        count.summary()
    );
    Ok(())
}

/// What answers in [`model`].
#[derive(Debug, Clone, Copy)]
enum By {
    /// No program is bound.
    Daemon,
    /// The shipped linear program.
    Linear,
    /// The daemon for so many percent, the program for the rest.
    Random(u32),
    /// Both, by turns of 64 sectors.
    Checker,
    /// The program, one block at a time.
    OneBlock,
}

/// Random operations against a model, then a look at the backing itself.
fn model(kind: Kind, by: By, queues: u32) -> Result<()> {
    let backing = Backing::new(kind)?;
    let (name, set) = match by {
        By::Daemon => ("", String::new()),
        By::Linear => ("linear", String::new()),
        By::Random(percent) => ("decline_random", format!("percent={percent}")),
        By::Checker => ("checker", "chunk=64".to_owned()),
        By::OneBlock => ("one_sector", format!("block={}", kind.block() / 512)),
    };
    let _prog = match by {
        By::Daemon | By::Linear => None,
        _ => Some(Prog::load(name, &[&set])?),
    };
    let fastpath = match by {
        By::Daemon => String::new(),
        _ => format!("--bpf-fastpath={name}"),
    };
    let ubd = backing.device(&format!("-q {queues} {fastpath}"))?;
    let mut model = Model::of(&ubd, backing.shown(), kind.clears())?;
    ensure!(
        model.block() == kind.block(),
        "the device has blocks of {} bytes",
        model.block()
    );
    let before = ubd.counters()?;
    // A split costs as much as an I/O of its own.
    let operations = if matches!(by, By::OneBlock) { 100 } else { 250 };
    let done = model
        .run(&ubd.node(), 1, operations)
        .context("the device is not as its model")?;
    let count = ubd.counters()?.since(&before);
    check_counters(kind, by, &count, &done)
        .with_context(|| format!("{done:?}; {}", count.summary()))?;
    ubd.del()?;
    backing
        .check(&model.bytes)
        .context("the backing is not as the model")
}

/// The model is worth something only if it fails when it should.
fn wrong_map() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let prog = Prog::load("cookie_offset", &[])?;
    let ubd = backing.device(&format!("--bpf-fastpath={}", prog.name()))?;
    sh(format!(
        "ubd-bpf bind {} {} --cookie 1",
        ubd.node(),
        prog.name()
    ))?;
    let mut model = Model::of(&ubd, backing.shown(), false)?;
    let before = ubd.counters()?;
    let error = model
        .run(&ubd.node(), 1, 20)
        .err()
        .context("a map that is off by a sector went unnoticed")?;
    ensure!(
        format!("{error:?}").contains("differs at byte"),
        "another error: {error:?}"
    );
    ensure!(
        ubd.counters()?.since(&before)["mapped"] > 0,
        "nothing was mapped"
    );
    ubd.del()?;
    ensure!(
        backing.check(&model.bytes).is_err(),
        "the backing is as it should not be"
    );
    Ok(())
}

fn check_counters(kind: Kind, by: By, count: &Counters, done: &Done) -> Result<()> {
    let flushes = count["flush_mapped"] + count["flush_declined"];
    ensure!(flushes >= done.flushes, "flushes are missing");
    if kind.clears() {
        let discards = count["discard_mapped"] + count["discard_declined"];
        ensure!(
            done.discards > 0 && discards >= done.discards,
            "discards are missing"
        );
        let zero_outs = count["write_zeroes_mapped"] + count["write_zeroes_declined"];
        ensure!(zero_outs >= done.zero_outs, "write-zeroes are missing");
    }
    let (mapped, declined) = match by {
        By::Daemon | By::Random(100) => (false, true),
        By::Linear | By::Random(0) | By::OneBlock => (true, false),
        By::Random(_) | By::Checker => (true, true),
    };
    for op in ["read", "write"] {
        ensure!(
            (count[&format!("{op}_mapped")] > 0) == mapped,
            "{op}s were mapped, or not"
        );
        ensure!(
            (count[&format!("{op}_declined")] > 0) == declined,
            "{op}s were declined, or not"
        );
    }
    // What the disk cannot do by itself is left to the daemon.
    if kind.clears() && !declined {
        ensure!(count["declined"] == 0, "something was declined");
    }
    if mapped {
        ensure!(
            count["flush_slots"] >= done.flushes,
            "the slot was not flushed"
        );
    }
    let splits = matches!(by, By::OneBlock | By::Checker);
    ensure!((count["splits"] > 0) == splits, "there were splits, or not");
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "bad verdicts or errors"
    );
    Ok(())
}
