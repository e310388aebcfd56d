// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shipped programs against models of them, over questions made at random and at every edge.

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use ubd_bpf::fastpath::{ask, Answer, Name, Question, Verdict};
use ubd_bpf::uapi::ubd;

use crate::support::{shipped_object, Prog};

/// Questions to each program, over all its layouts.
const CASES: usize = 6000;

/// A model's answer before the driver has looked at it.
enum Model {
    Decline,
    Map {
        slot: u32,
        sector: u64,
        sectors: u32,
    },
}

/// Compares one answer; what lies outside a slot or between blocks must be bad.
fn check(name: &Name, question: &Question, model: Model) -> Result<()> {
    let answer = ask(name, question)?;
    let context = || format!("{question:?} was answered {answer:?}");
    match model {
        Model::Decline => ensure!(
            answer.verdict == Verdict::Decline,
            "{} instead of a decline",
            context()
        ),
        Model::Map {
            slot,
            sector,
            sectors,
        } => {
            let block = u64::from(question.block_size / 512);
            let aligned = sector % block == 0 && u64::from(sectors) % block == 0;
            let end = sector.checked_add(sectors.into());
            if aligned && end.is_some_and(|end| end <= question.slot_sectors) {
                let right = Answer {
                    verdict: Verdict::Map { slot, sector },
                    sectors,
                };
                ensure!(answer == right, "{} instead of {right:?}", context());
            } else {
                let bad = matches!(answer.verdict, Verdict::Bad { .. });
                ensure!(
                    bad,
                    "{} although sector {sector}+{sectors} is impossible",
                    context()
                );
            }
        }
    }
    Ok(())
}

/// A number that is often at an edge of something.
fn edgy(rng: &mut Rng, edges: &[u64]) -> u64 {
    match rng.u8(..4) {
        0 => rng.u64(..) >> rng.u32(..64),
        1 => rng.u64(..1 << 16),
        _ => edges[rng.usize(..edges.len())]
            .wrapping_add(rng.u64(..33))
            .wrapping_sub(16),
    }
}

fn question(rng: &mut Rng, edges: &[u64]) -> Question {
    let block_size = if rng.u8(..4) == 0 { 4096 } else { 512 };
    let block = u64::from(block_size / 512);
    let sectors = match rng.u8(..3) {
        0 => rng.u32(1..9),
        1 => rng.u32(1..2049),
        _ => rng.u32(1..1 << 20),
    };
    Question {
        op: [
            ubd::OP_READ,
            ubd::OP_WRITE,
            ubd::OP_DISCARD,
            ubd::OP_WRITE_ZEROES,
        ][rng.usize(..4)],
        sector: edgy(rng, edges) / block * block,
        sectors: u32::try_from(u64::from(sectors).next_multiple_of(block)).unwrap_or(8),
        cookie: rng.u64(..),
        slots: rng.u32(..6),
        slot_sectors: edgy(rng, edges),
        block_size,
    }
}

pub fn linear() -> Result<()> {
    let mut rng = Rng::with_seed(0x6c696e);
    let name: Name = "model_linear".parse()?;
    for offset in [0, 12345, u64::MAX - 4095] {
        let set = format!("linear_offset={offset}");
        let prog = Prog::load_as(&shipped_object("linear"), name.as_str(), &[&set])?;
        for _ in 0..CASES / 3 {
            let question = question(
                &mut rng,
                &[0, offset, offset.wrapping_neg(), 1 << 32, u64::MAX],
            );
            let model = match question.slots {
                0 => Model::Decline,
                _ => Model::Map {
                    slot: 0,
                    sector: question.sector.wrapping_add(offset),
                    sectors: question.sectors,
                },
            };
            check(&name, &question, model).context(set.clone())?;
        }
        prog.unload()?;
    }
    Ok(())
}

/// Where `sector` lies in slots of these lengths, one behind the other.
fn concat_model(lengths: &[u64], question: &Question) -> Model {
    let mut start = 0u64;
    for (slot, len) in lengths.iter().enumerate().take(question.slots as usize) {
        if question.sector - start < *len {
            let sector = question.sector - start;
            let sectors = u64::from(question.sectors).min(len - sector) as u32;
            return Model::Map {
                slot: slot as u32,
                sector,
                sectors,
            };
        }
        start += len;
    }
    Model::Decline
}

pub fn concat() -> Result<()> {
    let mut rng = Rng::with_seed(0x636f6e);
    let name: Name = "model_concat".parse()?;
    let layouts: &[&[u64]] = &[&[], &[1000, 24, 5000], &[8, 0, 16, 1 << 20, 1, 1]];
    for lengths in layouts {
        let list: Vec<_> = lengths.iter().map(u64::to_string).collect();
        let mut set = vec![format!("nr={}", lengths.len())];
        if !lengths.is_empty() {
            set.push(format!("slot_len={}", list.join(",")));
        }
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let prog = Prog::load_as(&shipped_object("concat"), name.as_str(), &set)?;
        // Every seam is an edge.
        let mut edges = vec![0];
        edges.extend(lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        }));
        for _ in 0..CASES / 3 {
            let question = question(&mut rng, &edges);
            check(&name, &question, concat_model(lengths, &question))
                .with_context(|| format!("{set:?}"))?;
        }
        prog.unload()?;
    }
    Ok(())
}

/// Where `sector` lies when chunks are dealt out: found by looking for the row, not by dividing.
fn stripe_model(members: u64, chunk: u64, question: &Question) -> Model {
    if members == 0 || u64::from(question.slots) < members {
        return Model::Decline;
    }
    let row_len = members * chunk;
    let mut row = 0u64;
    for bit in (0..64).rev() {
        let next = row | 1 << bit;
        if u128::from(next) * u128::from(row_len) <= u128::from(question.sector) {
            row = next;
        }
    }
    let mut slot = 0;
    let mut start = row * row_len;
    while question.sector - start >= chunk {
        start += chunk;
        slot += 1;
    }
    let within = question.sector - start;
    Model::Map {
        slot,
        sector: row * chunk + within,
        sectors: u64::from(question.sectors).min(chunk - within) as u32,
    }
}

pub fn stripe() -> Result<()> {
    let mut rng = Rng::with_seed(0x737472);
    let name: Name = "model_stripe".parse()?;
    let prog = Prog::load_as(&shipped_object("stripe"), name.as_str(), &[])?;
    for _ in 0..CASES {
        let members = [0, 1, 2, 3, 4, 5, 7, 8, 13, 64][rng.usize(..10)];
        let order = [3, 7, 8, 11, 21][rng.usize(..5)];
        let (chunk, row) = (1u64 << order, members << order);
        let edges = [0, chunk, row, row * 1000, 1 << 32, u64::MAX];
        let question = Question {
            cookie: members | order << 8,
            slots: if rng.bool() { 64 } else { rng.u32(..=64) },
            ..question(&mut rng, &edges)
        };
        check(&name, &question, stripe_model(members, chunk, &question))?;
    }
    prog.unload()
}
