// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program against a model of it, over random maps and random questions.

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::cluster::{ClusterMap, Content, Options, Place};
use ubd_bpf::fastpath::{ask, Answer, Name, Question, Source, Verdict};
use ubd_bpf::uapi::ubd;

/// For each size of clusters.
const CASES: usize = 1000;

pub fn model() -> Result<()> {
    let mut rng = Rng::with_seed(0x636c);
    for (cluster_bytes, clusters) in [(512, 5000), (4096, 1), (65536, 4096), (1 << 20, 777)] {
        one_map(&mut rng, cluster_bytes, clusters)
            .with_context(|| format!("{clusters} clusters of {cluster_bytes} bytes"))?;
    }
    Ok(())
}

fn content(rng: &mut Rng) -> Content {
    let place = match rng.u8(..3) {
        0 => Place::new(rng.u32(..64), rng.u64(..1 << 40)),
        _ => Place::new(rng.u32(..4), rng.u64(..1 << 12)),
    };
    match rng.u8(..8) {
        0 => Content::Unmapped,
        1 => Content::Zero,
        2 | 3 => Content::read_only(place.expect("it fits")),
        _ => Content::writable(place.expect("it fits")),
    }
}

fn one_map(rng: &mut Rng, cluster_bytes: u64, clusters: u32) -> Result<()> {
    let name: Name = "model_cluster".parse()?;
    let mut contents: Vec<_> = (0..clusters).map(|_| content(rng)).collect();
    let options = Options {
        name: name.clone(),
        program: Source::cluster(),
        clusters,
        cluster_bytes,
    };
    let map = ClusterMap::load(&options, |cluster| contents[cluster as usize])?;
    let mut seen = [0; 4];
    // Entries change under the program's eyes; some stay locked.
    for round in 0..4 {
        let mut locks = Vec::new();
        for cluster in 0..clusters {
            match rng.u8(..8) {
                0 => locks.push(map.lock(cluster)),
                1 | 2 => {
                    contents[cluster as usize] = content(rng);
                    map.lock(cluster).install(contents[cluster as usize]);
                }
                _ => {}
            }
        }
        let locked: Vec<bool> = (0..clusters)
            .map(|cluster| map.get(cluster).locked)
            .collect();
        ensure!(
            locked.iter().filter(|locked| **locked).count() == locks.len(),
            "round {round}: other entries are locked than those that we hold"
        );
        for _ in 0..CASES / 4 {
            let question = question(rng, cluster_bytes / 512, clusters.into());
            let right = answer(&contents, &locked, cluster_bytes / 512, &question);
            let is = ask(&name, &question)?;
            let index = match &is.verdict {
                Verdict::Map { .. } => 0,
                Verdict::Zero => 1,
                Verdict::Decline => 2,
                _ => 3,
            };
            seen[index] += 1;
            let same = match (&right, &is.verdict) {
                (None, Verdict::Bad { .. }) => true,
                (Some(right), _) => *right == is,
                _ => false,
            };
            ensure!(
                same,
                "round {round}: {question:?} was answered {is:?} instead of {right:?}"
            );
        }
    }
    ensure!(
        clusters == 1 || seen.iter().all(|n| *n > 10),
        "some verdicts were hardly seen: {seen:?}"
    );
    Ok(())
}

fn question(rng: &mut Rng, cluster: u64, clusters: u64) -> Question {
    let block_size = if rng.u8(..8) == 0 { 4096 } else { 512 };
    let block = u64::from(block_size / 512);
    let size = cluster * clusters;
    let sector = match rng.u8(..16) {
        0 => rng.u64(..),
        1 => size.wrapping_add(rng.u64(..33)).wrapping_sub(16),
        // Would be a cluster of the map if its number were cut to 32 bits.
        2 => (cluster << 32).wrapping_add(rng.u64(..size)),
        3..8 => (rng.u64(..clusters) * cluster)
            .wrapping_add(rng.u64(..17))
            .wrapping_sub(8),
        _ => rng.u64(..size),
    };
    let sectors = match rng.u8(..3) {
        0 => rng.u64(1..9),
        1 => rng.u64(1..2049),
        _ => rng.u64(1..1 << 20),
    };
    Question {
        op: [
            ubd::OP_READ,
            ubd::OP_READ,
            ubd::OP_READ,
            ubd::OP_WRITE,
            ubd::OP_WRITE,
            ubd::OP_WRITE,
            ubd::OP_DISCARD,
            ubd::OP_WRITE_ZEROES,
        ][rng.usize(..8)],
        sector: sector / block * block,
        sectors: sectors.next_multiple_of(block) as u32,
        cookie: rng.u64(..),
        slots: if rng.bool() { 64 } else { rng.u32(..6) },
        slot_sectors: match rng.u8(..4) {
            0 => rng.u64(..1 << 20),
            _ => u64::MAX >> rng.u32(1..12),
        },
        block_size,
    }
}

/// The right answer; none if the driver must refuse what the map says.
fn answer(contents: &[Content], locked: &[bool], cluster: u64, q: &Question) -> Option<Answer> {
    let (number, within) = (q.sector / cluster, q.sector % cluster);
    let inside = number < contents.len() as u64;
    let sectors = match inside {
        true => u64::from(q.sectors).min(cluster - within) as u32,
        false => q.sectors,
    };
    let verdict = match inside.then(|| (contents[number as usize], locked[number as usize], q.op)) {
        Some((Content::Zero, false, ubd::OP_READ)) => Verdict::Zero,
        Some((Content::Mapped { place, .. }, false, ubd::OP_READ))
        | Some((
            Content::Mapped {
                place,
                writable: true,
            },
            false,
            ubd::OP_WRITE,
        )) => Verdict::Map {
            slot: place.slot(),
            sector: place.cluster() * cluster + within,
        },
        _ => Verdict::Decline,
    };
    let block = u64::from(q.block_size / 512);
    let mut good = u64::from(sectors) % block == 0;
    if let Verdict::Map { slot, sector } = verdict {
        good &=
            slot < q.slots && sector % block == 0 && sector + u64::from(sectors) <= q.slot_sectors;
    }
    good.then_some(Answer { verdict, sectors })
}
