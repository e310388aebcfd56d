// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices beside their model, byte for byte, whatever happens to them.

use std::time::Instant;

use anyhow::{Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use super::events::{Programs, Subject};
use super::stage::Worker;
use crate::support::backing::{Backing, Kind};
use crate::support::model::Model;
use crate::support::{sh, Standby, Ubd};

const KINDS: [Kind; 4] = [
    Kind::Disk,
    Kind::Disk4k,
    Kind::FileDirect,
    Kind::FileBuffered,
];

/// Operations between two looks at all of the device.
const OPERATIONS: usize = 30;

/// One device after the other.
pub fn lives(worker: &mut Worker) -> Result<()> {
    let mut kind = worker.rng.usize(..);
    while worker.stage.goes_on() {
        kind += 1;
        live(worker, KINDS[kind % KINDS.len()])?;
        worker.stage.count("devices beside a model", 1);
    }
    Ok(())
}

/// Options of a device that can be recovered without anybody noticing.
pub fn options(worker: &mut Worker, programs: &Programs) -> Result<String> {
    let zero_copy = Control::open()?.ublk_features()? & ublk::F_AUTO_BUF_REG != 0;
    let mode = match worker.rng.u32(..6) {
        0 => "--user-copy",
        1 | 2 => "--forward",
        3 if zero_copy => "--zero-copy",
        _ => "",
    };
    let death = worker.pick(&["", "--on-daemon-death stop"]);
    Ok(format!(
        "-q {} --recovery=reissue {death} {mode} --bpf-fastpath={}",
        worker.rng.u32(1..=3),
        programs.good()
    ))
}

fn live(worker: &mut Worker, kind: Kind) -> Result<()> {
    worker.does("make a device");
    let backing = Backing::new(kind)?;
    let programs = Programs::load(&worker.name)?;
    let options = options(worker, &programs)?;
    let ubd = backing.device(&options)?;
    let mut model = Model::of(&ubd, backing.shown(), kind.clears())?;
    let subject = Subject {
        ubd: &ubd,
        backing: &backing.path,
        direct: kind == Kind::FileDirect,
        offset: backing.window.start as u64,
        len: backing.window.len() as u64,
        is_closed_often: true,
        programs,
        standby: Standby::start()?,
    };
    let end = Instant::now() + worker.span();
    let load = worker.helper("load");
    beside(worker, &subject, || {
        let mut load = load;
        while Instant::now() < end {
            let seed = load.rng.u64(..);
            load.event("runs of the model", |_| {
                model.run(&ubd.node(), seed, OPERATIONS).map(drop)
            })?;
        }
        Ok(())
    })
    .with_context(|| format!("{kind:?}, `{options}`"))?;
    worker.does("delete the device");
    tally(worker, &ubd)?;
    drop(subject);
    ubd.del()?;
    let checked = backing.check(&model.bytes);
    checked.with_context(|| format!("the backing, {kind:?}, `{options}`"))
}

/// Events beside a load that ends by itself.
pub fn beside(
    worker: &mut Worker,
    subject: &Subject,
    load: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    std::thread::scope(|scope| {
        let load = scope.spawn(load);
        let suffered = subject.suffer(worker, || load.is_finished());
        if suffered.is_err() {
            // Nobody may serve the load any more: it is to fail instead of to wait.
            let _ = sh(format!("ubd del --force {}", subject.ubd.id()));
        }
        worker.does("wait for the load");
        let loaded = load.join().expect("the load");
        suffered.and(loaded.context("the load"))
    })
}

/// How much of its work a device has done in which way.
pub fn tally(worker: &Worker, ubd: &Ubd) -> Result<()> {
    let count = ubd.counters()?;
    for what in [
        "mapped",
        "declined",
        "forwarded",
        "tracked",
        "fences",
        "bad",
    ] {
        worker.stage.count(&format!("ios: {what}"), count[what]);
    }
    Ok(())
}
