// SPDX-License-Identifier: MIT OR Apache-2.0
//! The arithmetic of the shipped programs, and of the daemon's layouts, against models of it.
//!
//! The C of `bpf/linear.bpf.c`, `concat.bpf.c` and `stripe.bpf.c` is compiled for this machine,
//! unchanged, and asked over a pipe (`maps/native.c`). The models think in another way than the
//! programs do: in sums of 128 bits, or sector by sector.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

#[path = "maps/layout.rs"]
mod layout;
#[path = "maps/stripe.rs"]
mod stripe;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use ubd_bpf::uapi::ubd::{MAP_BACKING, MAP_DECLINE, MAX_SLOTS};

/// Cases of each property.
const CASES: u32 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Decline,
    Map {
        slot: u32,
        sector: u64,
        sectors: u32,
    },
}

/// A program that runs as a process of this machine.
struct Native {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Compiles the program once, whatever the number of tests that ask it.
fn build(program: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exe =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("map-{}", program.to_lowercase()));
    let cc = std::env::var("CC").unwrap_or("cc".into());
    let status = Command::new(&cc)
        .args([
            "-O1",
            "-Wall",
            "-Werror",
            "-fsanitize=undefined",
            "-fno-sanitize-recover=all",
        ])
        .arg(format!("-D{program}"))
        .arg("-I")
        .arg(root.join("bpf"))
        .arg("-o")
        .arg(&exe)
        .arg(root.join("tests/maps/native.c"))
        .status()
        .unwrap_or_else(|err| panic!("failed to run `{cc}`: {err}"));
    assert!(
        status.success(),
        "`{cc}` failed to compile tests/maps/native.c"
    );
    exe
}

impl Native {
    fn linear() -> Self {
        static EXE: LazyLock<PathBuf> = LazyLock::new(|| build("LINEAR"));
        Native::start(&EXE)
    }

    fn concat() -> Self {
        static EXE: LazyLock<PathBuf> = LazyLock::new(|| build("CONCAT"));
        Native::start(&EXE)
    }

    fn stripe() -> Self {
        static EXE: LazyLock<PathBuf> = LazyLock::new(|| build("STRIPE"));
        Native::start(&EXE)
    }

    fn start(exe: &Path) -> Self {
        let mut child = Command::new(exe)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Native {
            questions: child.stdin.take(),
            answers,
            child,
        }
    }

    fn ask(&mut self, settings: &[u64], sector: u64, sectors: u32, slots: u32) -> Answer {
        let mut line = String::new();
        for setting in settings {
            line.push_str(&format!("{setting} "));
        }
        line.push_str(&format!("{sector} {sectors} {slots}\n"));
        self.questions
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();

        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let numbers: Vec<i128> = answer
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        let [verdict, slot, sector, length] = numbers[..] else {
            panic!("the program answered {answer:?} to {line:?}");
        };
        match i32::try_from(verdict).unwrap() {
            MAP_DECLINE => {
                // A verdict holds for map_sectors, and nothing of these programs declines a part.
                assert_eq!(length, i128::from(sectors));
                Answer::Decline
            }
            MAP_BACKING => Answer::Map {
                slot: slot.try_into().unwrap(),
                sector: sector.try_into().unwrap(),
                sectors: length.try_into().unwrap(),
            },
            other => panic!("verdict {other}"),
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.questions.take();
        self.child.wait().unwrap();
    }
}

fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&strategy, property)
        .unwrap_or_else(|err| panic!("{err}"));
}

/// Numbers of every magnitude, and the ends of the range.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (any::<u64>(), 0u32..64).prop_map(|(n, shift)| n >> shift),
        1 => Just(0),
        1 => Just(u64::MAX),
    ]
}

#[test]
fn linear_shifts() {
    let linear = RefCell::new(Native::linear());
    let case = (any_number(), any_number(), 1u32.., 0u32..=MAX_SLOTS);
    check(case, |(offset, sector, sectors, slots)| {
        let want = match slots {
            0 => Answer::Decline,
            // Past the end of the numbers it wraps, and the driver refuses what is out of the window.
            _ => Answer::Map {
                slot: 0,
                sector: sector.wrapping_add(offset),
                sectors,
            },
        };
        prop_assert_eq!(
            linear.borrow_mut().ask(&[offset], sector, sectors, slots),
            want
        );
        Ok(())
    });
}

/// `nr`, then all lengths, as the program has them.
fn concat_settings(lengths: &[u64], nr: u32) -> Vec<u64> {
    let mut settings = vec![0; 1 + MAX_SLOTS as usize];
    settings[0] = nr.into();
    settings[1..=lengths.len()].copy_from_slice(lengths);
    settings
}

/// Which slot an io begins in, by the sums of the lengths before it.
fn concat_model(lengths: &[u64], sector: u64, sectors: u32) -> Answer {
    let mut start = 0u128;
    for (slot, &length) in lengths.iter().enumerate() {
        let end = start + u128::from(length);
        if (start..end).contains(&u128::from(sector)) {
            let left = end - u128::from(sector);
            return Answer::Map {
                slot: slot as u32,
                sector: (u128::from(sector) - start) as u64,
                sectors: left.min(sectors.into()) as u32,
            };
        }
        start = end;
    }
    Answer::Decline
}

#[test]
fn concat_finds_the_slot() {
    let concat = RefCell::new(Native::concat());
    let case = (
        vec(any_number(), 0..=MAX_SLOTS as usize),
        0u32..80,
        0u32..=MAX_SLOTS,
        any_number(),
        1u32..,
    );
    check(case, |(lengths, nr, slots, sector, sectors)| {
        let in_use = lengths.len().min(nr as usize).min(slots as usize);
        let settings = concat_settings(&lengths, nr);
        let answer = concat.borrow_mut().ask(&settings, sector, sectors, slots);
        prop_assert_eq!(answer, concat_model(&lengths[..in_use], sector, sectors));
        Ok(())
    });
}

#[test]
fn concat_meets_its_seams() {
    let concat = RefCell::new(Native::concat());
    let lengths = vec(1u64..1 << 40, 1..=MAX_SLOTS as usize);
    let case = (lengths, any::<prop::sample::Index>(), -2i64..=2, 1u32..=16);
    check(case, |(lengths, seam, beside, sectors)| {
        let seam: u64 = lengths[..=seam.index(lengths.len())].iter().sum();
        let sector = seam.saturating_add_signed(beside);
        let settings = concat_settings(&lengths, lengths.len() as u32);
        let answer = concat
            .borrow_mut()
            .ask(&settings, sector, sectors, MAX_SLOTS);
        prop_assert_eq!(answer, concat_model(&lengths, sector, sectors));
        Ok(())
    });
}

/// The sectors of a concatenation, each with its slot and its sector there.
fn concat_sectors(lengths: &[u64]) -> Vec<(u32, u64)> {
    (0u32..)
        .zip(lengths)
        .flat_map(|(slot, &length)| (0..length).map(move |sector| (slot, sector)))
        .collect()
}

/// As the driver does it: ask, do the first part, ask again for the rest. Every sector of the
/// range must go where `all` has it, and what is behind the end must be declined.
fn covers(
    all: &[(u32, u64)],
    sector: u64,
    sectors: u32,
    mut ask: impl FnMut(u64, u32) -> Answer,
) -> Result<(), TestCaseError> {
    let mut at = sector;
    let end = sector + u64::from(sectors);
    while at < end {
        let left = (end - at) as u32;
        match ask(at, left) {
            Answer::Decline => {
                prop_assert!(
                    all.get(at as usize).is_none(),
                    "declined {} of {:?}",
                    at,
                    all
                );
                break;
            }
            Answer::Map {
                slot,
                sector,
                sectors,
            } => {
                prop_assert!((1..=left).contains(&sectors));
                for i in 0..u64::from(sectors) {
                    prop_assert_eq!(all.get((at + i) as usize), Some(&(slot, sector + i)));
                }
                at += u64::from(sectors);
            }
        }
    }
    Ok(())
}

#[test]
fn concat_covers_every_sector_once() {
    let concat = RefCell::new(Native::concat());
    let case = (vec(0u64..12, 1..10), 0u64..100, 1u32..100);
    check(case, |(lengths, sector, sectors)| {
        let settings = concat_settings(&lengths, lengths.len() as u32);
        covers(&concat_sectors(&lengths), sector, sectors, |at, left| {
            concat
                .borrow_mut()
                .ask(&settings, at, left, lengths.len() as u32)
        })
    });
}
