// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is there after a power cut. The disks below a device log their writes (dm-log-writes) in the
//! order in which they became durable; the log is replayed up to each flush and each FUA write, and
//! what it has come to by then is looked at.
//!
//! Of two disks, a power cut leaves each with what it had made durable, and with any part of what
//! came later. For a raw disk each sector is judged for itself, by the acknowledgements marked in its
//! own disk's log: that covers every combination of moments between two marks. A file system relies
//! on order across its disks; there, only moments are combined that were one: the same mark in both
//! logs, or the same flush, which the device sends to both.

mod files;
mod images;
mod log;
mod logged;
pub mod power;
mod raw;
mod shape;

use std::collections::HashMap;

use anyhow::{ensure, Context, Result};

use crate::cluster::server::{Options, Server};
use crate::support::tree::{EXT4, XFS};
use crate::support::{growth, long_only, sh, Test, Way, RAM_DISK_MIB};
use log::{Entry, What, SECTOR};
use logged::Logged;
use raw::{History, Judge, REGION};
use shape::{Held, Shape};

pub const TESTS: &[Test] = &[
    Test::new("crash/raw_linear_mapped", || {
        raw(Shape::Linear, Way::Mapped)
    }),
    Test::new("crash/raw_linear_tracked", || {
        long_only(|| raw(Shape::Linear, Way::Tracked))
    }),
    Test::new("crash/raw_linear_declined", || {
        raw(Shape::Linear, Way::Declined)
    }),
    Test::new("crash/raw_linear_forwarded", || {
        raw(Shape::Linear, Way::Forwarded)
    }),
    Test::new("crash/raw_stripe_mapped", || {
        raw(Shape::Stripe, Way::Mapped)
    }),
    Test::new("crash/raw_stripe_declined", || {
        long_only(|| raw(Shape::Stripe, Way::Declined))
    }),
    Test::new("crash/raw_stripe_forwarded", || {
        raw(Shape::Stripe, Way::Forwarded)
    }),
    Test::new("crash/raw_clusters_mapped", || {
        raw(Shape::Clusters, Way::Mapped)
    }),
    Test::new("crash/raw_clusters_declined", || long_only(still)),
    Test::new("crash/raw_clusters_forwarded", || {
        long_only(|| raw(Shape::Clusters, Way::Forwarded))
    }),
    Test::new("crash/raw_clusters_that_move", moving),
    Test::new("crash/file_mapped", || files::raw_file(Way::Mapped)),
    Test::new("crash/file_declined", || {
        long_only(|| files::raw_file(Way::Declined))
    }),
    Test::new("crash/file_forwarded", || {
        long_only(|| files::raw_file(Way::Forwarded))
    }),
    Test::new("crash/ext4_linear_mapped", || {
        long_only(|| files::file_system(&EXT4, Shape::Linear, Way::Mapped))
    }),
    Test::new("crash/ext4_linear_declined", || {
        long_only(|| files::file_system(&EXT4, Shape::Linear, Way::Declined))
    }),
    Test::new("crash/ext4_linear_forwarded", || {
        files::file_system(&EXT4, Shape::Linear, Way::Forwarded)
    }),
    Test::new("crash/ext4_stripe_mapped", || {
        files::file_system(&EXT4, Shape::Stripe, Way::Mapped)
    }),
    Test::new("crash/ext4_stripe_declined", || {
        long_only(|| files::file_system(&EXT4, Shape::Stripe, Way::Declined))
    }),
    Test::new("crash/ext4_stripe_forwarded", || {
        long_only(|| files::file_system(&EXT4, Shape::Stripe, Way::Forwarded))
    }),
    Test::new("crash/ext4_clusters_mapped", || {
        long_only(|| files::file_system(&EXT4, Shape::Clusters, Way::Mapped))
    }),
    Test::new("crash/ext4_clusters_declined", || {
        long_only(|| files::file_system(&EXT4, Shape::Clusters, Way::Declined))
    }),
    Test::new("crash/ext4_clusters_forwarded", || {
        long_only(|| files::file_system(&EXT4, Shape::Clusters, Way::Forwarded))
    }),
    Test::new("crash/xfs_linear_mapped", || {
        long_only(|| files::file_system(&XFS, Shape::Linear, Way::Mapped))
    }),
    Test::new("crash/xfs_linear_declined", || {
        files::file_system(&XFS, Shape::Linear, Way::Declined)
    }),
    Test::new("crash/xfs_linear_forwarded", || {
        long_only(|| files::file_system(&XFS, Shape::Linear, Way::Forwarded))
    }),
    Test::new("crash/xfs_stripe_mapped", || {
        long_only(|| files::file_system(&XFS, Shape::Stripe, Way::Mapped))
    }),
];

/// Of each disk. A device of the relocating example has 7/8 of one.
const MIB: u64 = 16;

fn raw(shape: Shape, way: Way) -> Result<()> {
    let len = MIB << 11;
    let logged = Logged::new(shape.members(), MIB, |_, _| Ok(()))?;
    let device = shape.device(way, &logged.nodes(), len)?;
    let history = load(device, 0, &logged)?;
    let shown = (0..shape.members()).map(|member| shape.shown(member, len));
    judge(&history, 0, &logged.end()?, &shown.collect::<Vec<_>>())
}

fn load(device: Held, start: u64, logged: &Logged) -> Result<History> {
    let mark = |text: &str| logged.mark(text);
    let history = raw::load(&device.ubd().node(), start, &mark)?;
    device.check_way()?;
    device.del()?;
    Ok(history)
}

/// Replays each log and looks at every point of it. `shown` says for each disk which sector of the
/// device is at each of its sectors, `start` where the region begins on the device.
fn judge(history: &History, start: u64, logs: &[Vec<Entry>], shown: &[Vec<u64>]) -> Result<()> {
    let mut judges = Vec::new();
    let mut points = 0;
    for (number, (entries, shown)) in logs.iter().zip(shown).enumerate() {
        let region = |sector: u64| {
            let at = shown.get(sector as usize)?.checked_sub(start)?;
            (at < REGION as u64).then_some(at as usize)
        };
        let here: Vec<usize> = (0..shown.len() as u64).filter_map(region).collect();
        ensure!(!here.is_empty(), "disk {number} has no part in this");
        let mut judge = Judge::new(history);
        for (index, entry) in entries.iter().enumerate() {
            match &entry.what {
                What::Mark(text) => judge.mark(text)?,
                What::Write { sector, data } => {
                    for (at, bytes) in (*sector..).zip(data.chunks(SECTOR)) {
                        if let Some(at) = region(at) {
                            judge.put(at, bytes, entry.fua);
                        }
                    }
                }
            }
            if entry.is_point() {
                points += 1;
                judge
                    .check(here.iter().copied())
                    .with_context(|| format!("disk {number}, entry {index}: {}", title(entry)))?;
            }
        }
        judges.push(judge);
    }
    Judge::check_fua(&judges)?;
    ensure!(
        points > 2 * history.acks(),
        "only {points} points for {} acknowledgements",
        history.acks()
    );
    println!("{points} points, {} acknowledgements", history.acks());
    Ok(())
}

fn title(entry: &Entry) -> String {
    match &entry.what {
        What::Mark(text) => format!("mark `{text}`"),
        What::Write { sector, data } => format!(
            "{} sectors at {sector}{}{}",
            data.len() / SECTOR,
            if entry.flush { ", flush" } else { "" },
            if entry.fua { ", FUA" } else { "" }
        ),
    }
}

/// Where the region begins for the relocating example: it lies in both halves.
const MIDDLE: u64 = (MIB << 11) / 2 - REGION as u64 / 2;

/// Small clusters and not too many moves: the log has room for all of them, however slow the load is.
fn relocating(logged: &Logged, movers: usize) -> Result<Server> {
    const CLUSTER: u64 = 16 << 10;
    let options = Options {
        movers,
        moves: (RAM_DISK_MIB << 20) / CLUSTER * 3 / 4,
        cluster_bytes: CLUSTER,
        limit: Some(MIB << 20),
        ..Default::default()
    };
    Server::start(&logged.nodes()[0], &options)
}

/// Without a program, its daemon does all.
fn still() -> Result<()> {
    let logged = Logged::new(1, MIB, |_, _| Ok(()))?;
    let server = relocating(&logged, 0)?;
    sh(format!("ubd-bpf unbind {}", server.device.id()))?;
    let mark = |text: &str| logged.mark(text);
    let mut history = History::default();
    // What udev read before is not the daemon's.
    let count = growth(&server.device, || {
        history = raw::load(&server.device.node(), MIDDLE, &mark)?;
        Ok(())
    })?;
    Way::Declined.check(&["write"], &count)?;
    server.stop()?;
    let shown: Vec<u64> = (0..MIB << 11).collect();
    judge(&history, MIDDLE, &logged.end()?, &[shown])
}

/// While clusters move, what was acknowledged is always somewhere on the disk. Where, the map says,
/// and keeping that is not the driver's.
fn moving() -> Result<()> {
    let logged = Logged::new(1, MIB, |_, _| Ok(()))?;
    let server = relocating(&logged, 1)?;
    let mark = |text: &str| logged.mark(text);
    let history = raw::load(&server.device.node(), MIDDLE, &mark)?;
    let count = server.device.counters()?;
    ensure!(
        count["tracked"] > 100 && count["bad"] == 0,
        "{}",
        count.summary()
    );
    let moves = server.stop()?;
    ensure!(moves >= 10, "only {moves} moves");
    let logs = logged.end()?;

    let mut judge = Judge::new(&history);
    // Each sector of the disk that is some version of one of the device; and of those, how many
    // places hold each version.
    let mut disk = HashMap::new();
    let mut places: Vec<HashMap<u64, u32>> = vec![HashMap::new(); REGION];
    let mut points = 0;
    for (index, entry) in logs[0].iter().enumerate() {
        match &entry.what {
            What::Mark(text) => judge.mark(text)?,
            What::Write { sector, data } => {
                for (at, bytes) in (*sector..).zip(data.chunks(SECTOR)) {
                    let is = raw::identify(bytes);
                    let was = match is {
                        Some(is) => disk.insert(at, is),
                        None => disk.remove(&at),
                    };
                    if let Some((sector, version)) = was {
                        let left = places[sector].entry(version).or_default();
                        *left -= 1;
                        if *left == 0 {
                            places[sector].remove(&version);
                        }
                    }
                    if let Some((sector, version)) = is {
                        *places[sector].entry(version).or_default() += 1;
                    }
                }
            }
        }
        if entry.is_point() {
            points += 1;
            for (sector, versions) in places.iter().enumerate() {
                let there = judge.may_be(sector, 0)
                    || versions
                        .keys()
                        .any(|version| judge.may_be(sector, *version));
                ensure!(
                    there,
                    "entry {index}, {}: sector {sector} is nowhere",
                    title(entry)
                );
            }
        }
    }
    println!("{points} points, {moves} moves");
    Ok(())
}
