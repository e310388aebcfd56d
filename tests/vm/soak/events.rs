// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may happen to a device whose user must see nothing of it.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::control::Control;

use super::stage::Worker;
use crate::support::{object, sh, shipped_object, slowness, wait_for, Prog, Standby, Ubd};

/// How long each may take on a machine that is busy with everything else.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A device that can be recovered, and the programs that it may have.
pub struct Subject<'a> {
    pub ubd: &'a Ubd,
    pub backing: &'a Path,
    /// The file's mode, on both sides.
    pub direct: bool,
    /// What the device shows of the backing, bytes; all when the length is 0.
    pub offset: u64,
    pub len: u64,
    /// Whether the slot may go: its number comes back only once nobody has the device open.
    pub is_closed_often: bool,
    pub programs: Programs,
    /// Brings a new daemon.
    pub standby: Standby,
}

/// One that is always right, whatever it is replaced with, and one that never is.
pub struct Programs {
    good: Prog,
    bad: Prog,
}

impl Programs {
    pub fn load(owner: &str) -> Result<Programs> {
        Ok(Programs {
            good: Prog::load_as(&object("decline_random"), &format!("{owner}-good"), &[])?,
            bad: Prog::load_as(&object("by_cookie"), &format!("{owner}-bad"), &[])?,
        })
    }

    pub fn good(&self) -> &str {
        self.good.name()
    }
}

type Event = (&'static str, fn(&Subject, &mut Rng) -> Result<()>);

const EVENTS: &[Event] = &[
    ("kill and recover", kill),
    ("upgrade", upgrade),
    ("freeze", freeze),
    ("replace the program", replace),
    ("bind and unbind", bind),
    ("eject", eject),
    ("fence", fence),
    ("resize", resize),
    ("take the slot away", take_slot),
    ("look", look),
];

impl Subject<'_> {
    /// One event after the other, until `done`. Each leaves the device as it was.
    pub fn suffer(&self, worker: &mut Worker, mut done: impl FnMut() -> bool) -> Result<()> {
        while !done() {
            let (name, event) = worker.pick(EVENTS);
            if name == "take the slot away" && !self.is_closed_often {
                continue;
            }
            worker
                .event(name, |rng| event(self, rng))
                .with_context(|| format!("{name}, device {}", self.ubd.id()))?;
            worker.does("pause");
            worker.pause(400);
        }
        Ok(())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let pid = self.ubd.pid()?;
        // SAFETY: signals a process; no memory is involved.
        unsafe { libc::kill(pid as i32, signal) };
        Ok(())
    }

    fn bind(&self) -> Result<()> {
        Control::open()?.bind(self.ubd.id(), self.programs.good(), 0)?;
        Ok(())
    }
}

fn pause(rng: &mut Rng, most: u64) {
    sleep(Duration::from_millis(rng.u64(..most)));
}

fn kill(subject: &Subject, rng: &mut Rng) -> Result<()> {
    subject.signal(libc::SIGKILL)?;
    wait_for("state quiesced", PATIENCE, || {
        let state = subject.ubd.attr("ubd/state");
        state.is_ok_and(|state| state == "quiesced")
    })?;
    pause(rng, 300);
    let recover = format!("ubd recover {}", subject.ubd.id());
    subject.standby.sh(&recover).map(drop)
}

fn upgrade(subject: &Subject, _: &mut Rng) -> Result<()> {
    let limit = PATIENCE.as_secs() * u64::from(slowness());
    sh(format!(
        "ubd upgrade {} --timeout {limit}",
        subject.ubd.id()
    ))
    .map(drop)
}

fn freeze(subject: &Subject, rng: &mut Rng) -> Result<()> {
    subject.signal(libc::SIGSTOP)?;
    pause(rng, 1000);
    subject.signal(libc::SIGCONT)
}

/// All map to the same place, or leave it to the daemon.
fn replace(subject: &Subject, rng: &mut Rng) -> Result<()> {
    let good = &subject.programs.good;
    match rng.u32(..5) {
        0 => good.replace(&shipped_object("linear"), &[]),
        1 => good.replace(&object("checker"), &["chunk=64"]),
        2 => good.replace(&object("one_sector"), &["block=64"]),
        3 => good.replace(&object("linear_tracked"), &[]),
        _ => good.replace(
            &object("decline_random"),
            &[&format!("percent={}", rng.u32(..=100))],
        ),
    }
}

fn bind(subject: &Subject, rng: &mut Rng) -> Result<()> {
    Control::open()?.unbind(subject.ubd.id())?;
    pause(rng, 300);
    subject.bind()
}

/// Bad verdicts are declined, and enough of them eject the program.
fn eject(subject: &Subject, rng: &mut Rng) -> Result<()> {
    // What tests/bpf/by_cookie.bpf.c spoils, and with what.
    const SPOILS: [(u64, i64); 5] = [(1, 77), (2, 0), (3, 8), (4, 0), (5, -4)];
    let (what, with) = SPOILS[rng.usize(..SPOILS.len())];
    let (ubd, bad) = (subject.ubd, &subject.programs.bad);
    Control::open()?.bind(ubd.id(), bad.name(), (with << 8) as u64 | what)?;
    let start = Instant::now();
    while ubd.attr("ubd/program_state")? != "ejected" && start.elapsed() < Duration::from_secs(3) {
        sleep(Duration::from_millis(20));
    }
    subject.bind()?;
    bad.replace(&object("by_cookie"), &[])
}

fn fence(subject: &Subject, rng: &mut Rng) -> Result<()> {
    let control = Control::open()?;
    for _ in 0..rng.u32(1..10) {
        control.fence(subject.ubd.id())?;
    }
    Ok(())
}

/// Larger, and back again; nobody uses what comes and goes.
fn resize(subject: &Subject, rng: &mut Rng) -> Result<()> {
    if subject.len == 0 {
        return Ok(());
    }
    let id = subject.ubd.id();
    sh(format!("ubd resize {id} max"))?;
    pause(rng, 300);
    sh(format!("ubd resize --force {id} {}", subject.len)).map(drop)
}

/// Without the slot the program maps to nothing, and all is left to the daemon.
fn take_slot(subject: &Subject, rng: &mut Rng) -> Result<()> {
    let id = subject.ubd.id();
    Control::open()?.unregister_slot(id, 0)?;
    pause(rng, 500);
    let direct = if subject.direct { "--direct" } else { "" };
    let start = Instant::now();
    loop {
        // Somebody has the device open until then.
        let added = sh(format!(
            "ubd-bpf slot add {id} {} --slot 0 --offset {} --size {} {direct}",
            subject.backing.display(),
            subject.offset,
            subject.len
        ));
        let Err(err) = added else { return Ok(()) };
        ensure!(
            start.elapsed() < PATIENCE * slowness(),
            "the slot does not come back: {err:#}"
        );
        sleep(Duration::from_millis(100));
    }
}

/// Whoever only looks.
fn look(subject: &Subject, _: &mut Rng) -> Result<()> {
    let id = subject.ubd.id();
    sh(format!(
        "ubd list -J > /dev/null; ubd stats -J {id} > /dev/null; ubd-bpf list > /dev/null
         ubd-bpf slot list {id} > /dev/null; ubd-bpf show {} > /dev/null
         cat /sys/block/ubdb{id}/ubd/* /sys/block/ubdb{id}/queue/* > /dev/null 2>&1 || true",
        subject.programs.good()
    ))
    .map(drop)
}
