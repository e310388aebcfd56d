// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks and moves against a model, and from several threads.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::thread;

const CLUSTERS: u32 = 4;

fn place(cluster: u64) -> Place {
    Place::new((cluster % 64) as u32, cluster).unwrap()
}

fn table(content: Content) -> Table {
    let mut table = Table::new(CLUSTERS, 65536).unwrap();
    table.fill(|_| content);
    table
}

fn failure() -> Error {
    Error::new(Kind::Io, "on purpose")
}

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy)]
enum Act {
    Lock,
    Unlock,
    Install(Content),
    FenceAndInstall(Content),
    FenceFails,
    Relocate { to: u64, end: End },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Good,
    FenceFails,
    CopyFails,
    CopyPanics,
}

fn contents() -> impl Strategy<Value = Content> {
    prop_oneof![
        Just(Content::Unmapped),
        Just(Content::Zero),
        (0u64..100, any::<bool>()).prop_map(|(cluster, writable)| Content::Mapped {
            place: place(cluster),
            writable
        })
    ]
}

fn acts() -> impl Strategy<Value = (u32, Act)> {
    let end = prop_oneof![
        Just(End::Good),
        Just(End::FenceFails),
        Just(End::CopyFails),
        Just(End::CopyPanics)
    ];
    let act = prop_oneof![
        Just(Act::Lock),
        Just(Act::Unlock),
        contents().prop_map(Act::Install),
        contents().prop_map(Act::FenceAndInstall),
        Just(Act::FenceFails),
        (0u64..100, end).prop_map(|(to, end)| Act::Relocate { to, end }),
    ];
    (0..CLUSTERS, act)
}

/// Moves `cluster` as `end` says; true if that gave what it should.
fn relocate(table: &Table, cluster: u32, to: u64, end: End) -> bool {
    let before = table.get(cluster);
    let step = Cell::new(0);
    let moved = catch_unwind(AssertUnwindSafe(|| {
        table.relocate(
            cluster,
            place(to),
            || {
                assert!(table.get(cluster).locked, "locked before the fence");
                assert_eq!(step.replace(1), 0);
                match end {
                    End::FenceFails => Err(failure()),
                    _ => Ok(()),
                }
            },
            |from, there| {
                assert!(table.get(cluster).locked, "locked while it is copied");
                assert_eq!(step.replace(2), 1, "copied after the fence");
                assert_eq!((Some(from), there), (before.content.place(), place(to)));
                match end {
                    End::CopyFails => Err(failure()),
                    End::CopyPanics => std::panic::resume_unwind(Box::new("on purpose")),
                    _ => Ok(()),
                }
            },
        )
    }));
    match (moved, before.content.place(), end) {
        (Ok(Err(err)), None, _) => err.kind() == Kind::Usage && step.get() == 0,
        (Ok(Ok(left)), Some(from), End::Good) => left == from && step.get() == 2,
        (Ok(Err(_)), Some(_), End::FenceFails) => step.get() == 1,
        (Ok(Err(_)), Some(_), End::CopyFails) => step.get() == 2,
        (Err(_), Some(_), End::CopyPanics) => step.get() == 2,
        _ => false,
    }
}

proptest! {
    /// The model: a content for each cluster, and whether we hold its lock.
    #[test]
    fn a_table_is_its_model(acts in prop::collection::vec(acts(), 1..60)) {
        let table = table(Content::Unmapped);
        let mut model = [Content::Unmapped; CLUSTERS as usize];
        let mut held: [Option<Locked<'_>>; CLUSTERS as usize] = Default::default();
        for (cluster, act) in acts {
            let index = cluster as usize;
            match (act, held[index].take()) {
                (Act::Lock, None) => held[index] = Some(table.try_lock(cluster).unwrap()),
                (Act::Lock, Some(lock)) => {
                    prop_assert!(table.try_lock(cluster).is_none());
                    prop_assert!(table.lock_or_wait(cluster).is_err());
                    held[index] = Some(lock);
                }
                (Act::Install(content), Some(lock)) => {
                    prop_assert_eq!(lock.content(), model[index]);
                    lock.install(content);
                    model[index] = content;
                }
                (Act::FenceAndInstall(content), Some(lock)) => {
                    let left = lock.fence(|| Ok(())).unwrap().install(content);
                    let was = model[index].place();
                    prop_assert_eq!(left, was.filter(|_| was != content.place()));
                    model[index] = content;
                }
                (Act::FenceFails, Some(lock)) => {
                    prop_assert!(lock.fence(|| Err(failure())).is_err());
                }
                (Act::Relocate { to, end }, None) => {
                    prop_assert!(relocate(&table, cluster, to, end));
                    if let (Content::Mapped { writable, .. }, End::Good) = (model[index], end) {
                        model[index] = Content::Mapped { place: place(to), writable };
                    }
                }
                // It would wait for ourselves.
                (Act::Relocate { .. }, Some(lock)) => held[index] = Some(lock),
                (Act::Unlock, lock) => drop(lock),
                (_, None) => {}
            }
            let entry = table.get(cluster);
            prop_assert_eq!(entry.content, model[index]);
            prop_assert_eq!(entry.locked, held[index].is_some());
        }
    }

    /// The pieces of a range follow each other, each within one cluster, and make up the range.
    #[test]
    fn pieces_make_up_the_range(at in 0u64..6 << 16, len in 1u64..4 << 16) {
        let table = table(Content::Unmapped);
        let end = u64::from(CLUSTERS) << 16;
        let mut done = 0;
        while done < len {
            let Some(piece) = table.piece(at + done, len - done) else {
                prop_assert!(at + done >= end, "only what lies behind the end has no piece");
                return Ok(());
            };
            prop_assert!(piece.cluster < CLUSTERS && piece.len > 0);
            prop_assert_eq!((u64::from(piece.cluster) << 16) + piece.within, at + done);
            prop_assert!(piece.within + piece.len <= 1 << 16);
            done += piece.len;
        }
        prop_assert_eq!(done, len);
    }
}

#[test]
fn every_unlock_is_another_generation() {
    let table = table(Content::Zero);
    let first = table.get(1).generation();
    drop(table.lock(1));
    let second = table.get(1).generation();
    assert_ne!(first, second);
    table.lock(1).install(Content::Zero);
    assert_ne!(second, table.get(1).generation());
}

/// A lock keeps all others out, and whoever waits for it gets it.
#[test]
fn locks_exclude() {
    const ROUNDS: u64 = 2000;
    let table = table(Content::writable(place(0)));
    let inside = [(); CLUSTERS as usize].map(|()| AtomicBool::new(false));
    thread::scope(|scope| {
        for number in 0..4u32 {
            let (table, inside) = (&table, &inside);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let cluster = (round as u32 * 7 + number) % 2;
                    let lock = table.lock(cluster);
                    let cell = &inside[cluster as usize];
                    assert!(!cell.swap(true, Ordering::SeqCst), "two are inside");
                    let at = lock.content().place().unwrap().cluster();
                    if round % 16 == 0 {
                        thread::yield_now();
                    }
                    cell.store(false, Ordering::SeqCst);
                    lock.install(Content::writable(Place::new(0, at + 1).unwrap()));
                }
            });
        }
    });
    let sum: u64 = (0..2)
        .map(|cluster| table.get(cluster).content.place().unwrap().cluster())
        .sum();
    assert_eq!(sum, 4 * ROUNDS, "no change was lost");
}

#[test]
fn a_ticket_taken_at_a_lock_ends_with_it() {
    let table = table(Content::Unmapped);
    let lock = table.lock(3);
    let ticket = table.lock_or_wait(3).unwrap_err();
    thread::scope(|scope| {
        scope.spawn(|| {
            ticket.wait();
            assert!(table.try_lock(3).is_some());
        });
        thread::yield_now();
        drop(lock);
    });
}

#[test]
fn cluster_sizes() {
    for good in [512, 4096, 65536, 1 << 30] {
        assert_eq!(Table::new(1, good).unwrap().cluster_bytes(), good);
    }
    for bad in [0, 256, 513, 98304, 1 << 31] {
        assert_eq!(Table::new(1, bad).unwrap_err().kind(), Kind::Usage);
    }
}
