// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cluster maps: the program does what the map says, and data that moves is never lost.

mod arithmetic;
/// What is tested is the example itself.
#[path = "../../examples/relocate/mover.rs"]
mod mover;
pub mod server;
#[path = "../../examples/relocate/target.rs"]
pub mod target;

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use ubd_bpf::cluster::{ClusterMap, Content, Options, Place};
use ubd_bpf::control::Control;
use ubd_bpf::fastpath::{ask, programs, Answer, Question, Source, Verdict};
use ubd_bpf::uapi::ubd;
use ubd_bpf::Kind;

use crate::support::backing::noise;
use crate::support::io::{read_direct, write_direct};
use crate::support::model::Model;
use crate::support::{seconds, sh, wait_for, Dm, Fio, RamDisk, Test};
use server::Server;

pub const TESTS: &[Test] = &[
    Test::new("cluster/model", arithmetic::model),
    Test::new("cluster/lifetime", lifetime),
    Test::new("cluster/fixed_maps_do_not_move", fixed),
    Test::new("cluster/goes_with_its_daemon", goes_with_its_daemon),
    Test::new("cluster/moves_under_fio", moves_under_fio),
    Test::new("cluster/moves_under_model", moves_under_model),
    Test::new("cluster/without_fence_data_is_lost", without_fence),
];

/// Of the backing; the device has 7/8 of it, 224 clusters.
const BACKING_BYTES: usize = 16 << 20;
const DEVICE_BYTES: usize = BACKING_BYTES / 8 * 7;
const CLUSTER_BYTES: u64 = 64 << 10;

/// A part of a RAM disk whose writes take their time and whose reads do not: what was written and
/// is still on its way is not seen by who reads meanwhile, which is what a fence is for.
pub struct SlowWrites {
    dm: Dm,
    _disk: RamDisk,
}

impl SlowWrites {
    pub fn new(milliseconds: u32) -> Result<SlowWrites> {
        let disk = RamDisk::new()?;
        let node = disk.node();
        let sectors = BACKING_BYTES / 512;
        let table = format!("0 {sectors} delay {node} 0 0 {node} 0 {milliseconds}");
        let dm = Dm::new("ubdslow", "dm-delay", &table)?;
        Ok(SlowWrites { dm, _disk: disk })
    }

    pub fn node(&self) -> String {
        self.dm.node()
    }
}

/// One pass of fio over the device: two jobs, one for each queue, that write random blocks and
/// then read back and verify every one.
pub fn fio_pass(node: &str, seed: u64) -> Result<u64> {
    let part = DEVICE_BYTES / 2;
    Fio::verify(node, 4000)
        .option("numjobs=2")
        .option(&format!("size={part}"))
        .option(&format!("offset_increment={part}"))
        .option("bssplit=4k/70:16k/20:96k/10")
        .option(&format!("randseed={seed}"))
        .run()
}

/// Clusters move between the two halves of a disk, by several threads, while fio verifies.
fn moves_under_fio() -> Result<()> {
    let disk = SlowWrites::new(4)?;
    let server = Server::start(
        &disk.node(),
        &server::Options {
            movers: 4,
            ..Default::default()
        },
    )?;
    let before = server.device.counters()?;
    let start = Instant::now();
    let (mut ios, mut passes) = (0, 0);
    // A busy machine takes longer for as many moves.
    let fences = || anyhow::Ok(server.device.counters()?.since(&before)["fences"]);
    while start.elapsed() < seconds(20) || fences()? < 1000 && start.elapsed() < seconds(180) {
        passes += 1;
        ios += fio_pass(&server.device.node(), passes)?;
    }
    let count = server.device.counters()?.since(&before);
    let moves = server.stop()?;
    println!(
        "{ios} I/Os in {passes} passes, {moves} moves; {}",
        count.summary()
    );
    ensure!(
        count["mapped"] >= ios / 2 && count["tracked"] >= count["mapped"],
        "{ios} I/Os were not mapped: {}",
        count.summary()
    );
    ensure!(
        count["declined"] > 0,
        "no I/O has met a cluster that moved: {}",
        count.summary()
    );
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    ensure!(
        moves >= 1000 && count["fences"] >= 1000,
        "only {moves} moves: {}",
        count.summary()
    );
    Ok(())
}

/// Random operations of every kind against a model, discards and write-zeroes among them, while
/// clusters move.
fn moves_under_model() -> Result<()> {
    let disk = RamDisk::new()?;
    let content: Vec<u8> = (0..DEVICE_BYTES / 4096)
        .flat_map(|page| noise(page * 4099, 4096))
        .copied()
        .collect();
    write_direct(disk.node(), 0, &content)?;
    let server = Server::start(
        &disk.node(),
        &server::Options {
            movers: 2,
            limit: Some(BACKING_BYTES as u64),
            ..Default::default()
        },
    )?;
    let before = server.device.counters()?;
    let mut model = Model::of(&server.device, content, true)?;
    let start = Instant::now();
    let mut seed = 0;
    while start.elapsed() < seconds(15) {
        seed += 1;
        let done = model.run(&server.device.node(), seed, 150)?;
        ensure!(done.discards > 0 && done.zero_outs > 0, "{done:?}");
    }
    let count = server.device.counters()?.since(&before);
    let moves = server.stop()?;
    println!("{seed} runs, {moves} moves; {}", count.summary());
    ensure!(
        count["discard_declined"] > 0 && count["write_zeroes_declined"] > 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["read_mapped"] > 0 && count["write_mapped"] > 0 && count["tracked"] > 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    ensure!(moves >= 300, "only {moves} moves");
    Ok(())
}

/// The test above can fail: without the fence, writes that are on their way when their cluster is
/// copied are lost.
fn without_fence() -> Result<()> {
    let disk = SlowWrites::new(4)?;
    let server = Server::start(
        &disk.node(),
        &server::Options {
            movers: 4,
            fence: false,
            ..Default::default()
        },
    )?;
    for pass in 1..=20 {
        let Err(err) = fio_pass(&server.device.node(), pass) else {
            continue;
        };
        let said = format!("{err:#}");
        ensure!(
            said.contains("verify"),
            "fio failed for another reason: {said}"
        );
        println!("lost in pass {pass}");
        server.stop()?;
        return Ok(());
    }
    bail!("20 passes without a fence have lost nothing: the test with the fence proves nothing")
}

fn options(name: &str) -> Result<Options> {
    Ok(Options {
        name: name.parse()?,
        program: Source::cluster(),
        clusters: 1000,
        cluster_bytes: 4096,
    })
}

fn is_loaded(name: &str) -> Result<bool> {
    Ok(programs()?
        .iter()
        .any(|program| program.driver.name == name))
}

/// A map goes when it is dropped, stays when it is pinned, and shares its name with nobody.
fn lifetime() -> Result<()> {
    let map = ClusterMap::load(&options("lifetime")?, |_| Content::Zero)?;
    ensure!(is_loaded("lifetime")?, "the program is not registered");
    let twice = ClusterMap::load(&options("lifetime")?, |_| Content::Zero);
    let kind = twice.err().map(|err| err.kind());
    ensure!(kind == Some(Kind::Exists), "a second one gave {kind:?}");
    ensure!(is_loaded("lifetime")?, "the first one is gone");
    drop(map);
    wait_for("the program to go", Duration::from_secs(10), || {
        !is_loaded("lifetime").unwrap_or(true)
    })?;

    let mut map = ClusterMap::load(&options("lifetime")?, |_| Content::Zero)?;
    map.pin()?;
    drop(map);
    ensure!(is_loaded("lifetime")?, "a pinned program is gone");
    sh("ubd-bpf unload lifetime")?;
    ensure!(!is_loaded("lifetime")?, "an unloaded program is there");
    Ok(())
}

/// Without tracking there is no fence, and so no move; the map gains entries all the same.
fn fixed() -> Result<()> {
    let place = Place::new(0, 7)?;
    let options = Options {
        program: Source::cluster_fixed(),
        ..options("fixed")?
    };
    let map = ClusterMap::load(&options, |_| Content::Unmapped)?;
    map.lock(5).install(Content::writable(place));
    let moved = map.relocate(5, Place::new(0, 8)?, || Ok(()), |_, _| Ok(()));
    let kind = moved.err().map(|err| err.kind());
    ensure!(
        kind == Some(Kind::Unsupported),
        "a move without a fence gave {kind:?}"
    );
    let entry = map.get(5);
    ensure!(
        entry.content == Content::writable(place) && !entry.locked,
        "{entry:?}"
    );
    let question = Question {
        op: ubd::OP_WRITE,
        sector: 5 * 8 + 3,
        sectors: 16,
        cookie: 0,
        slots: 1,
        slot_sectors: 1 << 20,
        block_size: 512,
    };
    let answer = ask(map.name(), &question)?;
    let right = Answer {
        verdict: Verdict::Map {
            slot: 0,
            sector: 7 * 8 + 3,
        },
        sectors: 5,
    };
    ensure!(answer == right, "{answer:?} instead of {right:?}");
    Ok(())
}

/// A daemon that is killed leaves a device that fails I/O, not one that maps by a map that nobody
/// looks after.
fn goes_with_its_daemon() -> Result<()> {
    let disk = RamDisk::new()?;
    let server = Server::start(
        &disk.node(),
        &server::Options {
            limit: Some(BACKING_BYTES as u64),
            ..Default::default()
        },
    )?;
    let id = server.device.id();
    let node = server.device.node();
    let read = || read_direct(&node, 0, 4096);
    read()?;
    ensure!(is_loaded(server::PROGRAM)?, "the program is not registered");
    server.kill();
    wait_for("the program to go", Duration::from_secs(20), || {
        !is_loaded(server::PROGRAM).unwrap_or(true)
    })?;
    ensure!(read().is_err(), "nobody maps, and nobody is asked");
    ensure!(
        Control::open()?.fence(id).is_ok(),
        "without I/O on its way a fence holds at once"
    );
    Ok(())
}
