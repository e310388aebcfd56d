// SPDX-License-Identifier: MIT OR Apache-2.0
//! Anything at all, from processes that have no manners, while two good devices beside go on
//! serving the right bytes.
//!
//! What counts: the kernel does not complain, every such process can be killed, every device can be
//! deleted, and the module unloads at the end. The seed is printed; `UBD_SEED` repeats it,
//! `UBD_LONG=1` goes on for minutes.

mod arena;
mod beside;
mod control;
mod garbage;
mod memory;
mod objects;
mod records;
mod role;
#[path = "../support/seed.rs"]
mod seed;
mod server;
mod sqe;
mod user;

pub use role::play;

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;

use crate::control::server::{params, IO_BYTES};
use crate::control::unprivileged::OpenControl;
use crate::support::{
    seconds, shipped_object, slowness, wait_for, Background, Prog, RamDisk, Test, Ubd,
};
use beside::Beside;
use role::Role;

pub const TESTS: &[Test] = &[
    Test::new("fuzz/control", control_commands),
    Test::new("fuzz/server", servers),
    Test::new("fuzz/verdicts", garbage::verdicts),
    Test::new("fuzz/objects", objects::objects),
    Test::new("fuzz/records", records::records),
];

/// The numbers of the devices that everybody quarrels about.
const IDS: std::ops::Range<u32> = 40..43;

/// The program of those devices. It is ejected when they have it map writes to read-only slots, so
/// it is nobody else's.
const PROGRAM: &str = "quarrel";

fn quarrel() -> Result<Prog> {
    Prog::load_as(&shipped_object("linear"), PROGRAM, &[])
}

/// How long a test of this kind goes on.
fn span(short: u64) -> Duration {
    let long = if seed::long() { 20 } else { 1 };
    seconds(short) * long
}

/// Every command of the control node with anything for an argument, from root and from nobody, to
/// devices that come and go, with servers and users as wild.
fn control_commands() -> Result<()> {
    let seed = seed::seed("fuzz/control");
    let beside = Beside::start()?;
    let disk = RamDisk::new()?;
    let program = quarrel()?;
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + span(8);
    let _open = OpenControl::new()?;
    while Instant::now() < end {
        program.replace(&shipped_object("linear"), &[])?;
        let mut roles = Vec::new();
        for role in ["control", "control", "nobody", "server", "user"] {
            roles.push(Role::start(role, IDS.start, rng.u64(..), &disk.node())?);
        }
        std::thread::sleep(seconds(3));
        roles.into_iter().try_for_each(Role::end)?;
        delete_all()?;
        beside.goes_on()?;
    }
    beside.end()
}

/// Nothing of them is left, whatever state they were in.
fn delete_all() -> Result<()> {
    let control = Control::open()?;
    for id in ubd_bpf::sysfs::device_ids()? {
        if !beside::IDS.contains(&id) {
            // Somebody else's DEL may still be at work on it.
            let _ = control.del(id);
        }
    }
    wait_for("the devices to go", Duration::from_secs(40), || {
        let ids = ubd_bpf::sysfs::device_ids();
        ids.is_ok_and(|ids| ids.iter().all(|id| beside::IDS.contains(id)))
    })
}

/// Servers of every kind that break off being good at any moment, on devices with users.
fn servers() -> Result<()> {
    let seed = seed::seed("fuzz/server");
    let beside = Beside::start()?;
    let disk = RamDisk::new()?;
    let control = Control::open()?;
    let program = quarrel()?;
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + span(15);
    let (mut rounds, mut started) = (0, 0);
    while Instant::now() < end {
        program.replace(&shipped_object("linear"), &[])?;
        let round = rng.u64(..);
        started += u32::from(server_round(&control, &disk, round).with_context(|| {
            format!("round {rounds} of UBD_SEED={seed}, whose processes had other luck with time")
        })?);
        rounds += 1;
        beside.goes_on()?;
    }
    println!("{rounds} rounds, {started} devices started");
    ensure!(started > 0, "no device was ever started");
    beside.end()
}

/// The features of a device; those that the kernel has not are taken back by ADD.
fn some_flags(rng: &mut Rng) -> u64 {
    let kinds = [
        0,
        ublk::F_NEED_GET_DATA,
        ublk::F_USER_COPY,
        ublk::F_SUPPORT_ZERO_COPY,
        ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG,
        ublk::F_BATCH_IO,
        ublk::F_BATCH_IO | ublk::F_USER_COPY,
        ublk::F_BATCH_IO | ublk::F_SUPPORT_ZERO_COPY | ublk::F_AUTO_BUF_REG,
    ];
    let recovery = [
        0,
        ublk::F_USER_RECOVERY | ublk::F_QUIESCE,
        ublk::F_USER_RECOVERY | ublk::F_USER_RECOVERY_REISSUE,
        ublk::F_USER_RECOVERY | ublk::F_USER_RECOVERY_FAIL_IO,
    ];
    let tasks = [0, ublk::F_PER_IO_DAEMON];
    kinds[rng.usize(..kinds.len())]
        | recovery[rng.usize(..recovery.len())]
        | tasks[rng.usize(..2)]
        | ublk::F_UPDATE_SIZE
}

/// Parameters that make sense at first sight, if at all.
fn some_params(rng: &mut Rng) -> ublk::Params {
    let mut some = params();
    if rng.bool() {
        return some;
    }
    some.types |= ublk::PARAM_TYPE_DISCARD;
    some.basic.attrs = rng.u32(..16) & !ublk::ATTR_READ_ONLY;
    some.basic.logical_bs_shift = rng.u8(9..13);
    some.basic.physical_bs_shift = rng.u8(12..31);
    some.basic.io_min_shift = rng.u8(..31);
    some.basic.io_opt_shift = rng.u8(..31);
    some.basic.chunk_sectors = [0, 1, 8, 100, rng.u32(..)][rng.usize(..5)];
    some.basic.virt_boundary_mask = [0, 4095, 1, rng.u64(..)][rng.usize(..4)];
    some.discard = ublk::ParamDiscard {
        discard_alignment: rng.u32(..) >> rng.u32(..32),
        discard_granularity: rng.u32(1..) >> rng.u32(..32),
        max_discard_sectors: rng.u32(..) >> rng.u32(..32),
        max_write_zeroes_sectors: rng.u32(..) >> rng.u32(..32),
        max_discard_segments: 1,
        reserved0: 0,
    };
    if rng.bool() {
        some.types |= ublk::PARAM_TYPE_DMA_ALIGN | ublk::PARAM_TYPE_SEGMENT;
        some.dma.alignment = (1 << rng.u32(..13)) - 1;
        some.seg.seg_boundary_mask = u64::MAX >> rng.u32(..54);
        some.seg.max_segment_size = rng.u32(4096..) >> rng.u32(..22);
        some.seg.max_segments = rng.u16(..) >> rng.u32(..16);
    }
    some
}

/// One device, from ADD to DEL; whether it was started.
fn server_round(control: &Control, disk: &RamDisk, seed: u64) -> Result<bool> {
    let mut rng = Rng::with_seed(seed);
    let id = IDS.start;
    control.add(&AddRequest {
        id: Some(id),
        queues: rng.u16(1..=2),
        depth: rng.u16(1..=16),
        max_io_bytes: IO_BYTES as u32,
        flags: some_flags(&mut rng),
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(id);
    if control.set_params(id, &some_params(&mut rng)).is_err() {
        control.set_params(id, &params())?;
    }
    let server = Role::start("server", id, rng.u64(..), &disk.node())?;
    // START waits for a server that may never be ready; DEL ends that.
    let start = std::thread::spawn(move || {
        Control::open().is_ok_and(|control| control.start(id, std::process::id()).is_ok())
    });
    let user = Role::start("user", id, rng.u64(..), &disk.node())?;
    let slots = Role::start("slots", id, rng.u64(..), &disk.node())?;
    std::thread::sleep(Duration::from_millis(rng.u64(300..2500)) * slowness());
    // Some servers die first, some are killed by DEL, some recover in between.
    let mut server = Some(server);
    if rng.bool() {
        server.take().map_or(Ok(()), Role::end)?;
        if rng.bool() {
            let _ = control.start_recovery(id);
            server = Some(Role::start("server", id, rng.u64(..), &disk.node())?);
            let mut end =
                Background::start(format!("exec timeout 2 ubd recover {id} 2>&1 || true"))?;
            std::thread::sleep(Duration::from_millis(rng.u64(..500)));
            end.is_running();
        }
    }
    let before = Instant::now();
    control.del(id)?;
    std::mem::forget(device);
    ensure!(
        before.elapsed() < Duration::from_secs(40) * slowness(),
        "DEL took {:?}",
        before.elapsed()
    );
    let started = start.join().expect("START's thread");
    for role in [server, Some(user), Some(slots)].into_iter().flatten() {
        role.end()?;
    }
    Ok(started)
}
