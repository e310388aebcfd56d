// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regular files as backing: who calls the file system, the submitter or a thread, and that the
//! bytes are right whoever does. Every test looks at the counters of both.

mod aio;
mod claimed;
mod discards;
mod fragmented;
mod frozen;
pub mod full;
mod inline;
mod stacked;
mod threads;
mod times;
mod tracked;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Result};

use crate::support::mount::{image, Mount};
use crate::support::{growth, Counters, NullDisk, RawUser, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("files/raw_user_on_ext4", || inline::raw_user(EXT4)),
    Test::new("files/raw_user_on_xfs", || inline::raw_user(XFS)),
    Test::new("files/queues_on_ext4", || inline::queues(EXT4)),
    Test::new("files/queues_on_xfs", || inline::queues(XFS)),
    Test::new("files/buffered_is_never_inline", inline::buffered_slot),
    Test::new("files/deep_stacks", inline::deep_stack),
    Test::new("files/size_limit_of_the_submitter", inline::size_limit),
    Test::new("files/cached_pages_of_the_backing", inline::cached_pages),
    Test::new("files/claimed_front", claimed::exclusive),
    Test::new("files/who_frees_memory", claimed::frees_memory),
    Test::new("files/page_cache_of_the_front", claimed::page_cache),
    Test::new("files/mapped_front", claimed::mapped_memory),
    Test::new("files/fragmented_and_cold", fragmented::cold),
    Test::new("files/ext4_on_ext4", || stacked::same_on_same(EXT4)),
    Test::new("files/xfs_on_xfs", || stacked::same_on_same(XFS)),
    Test::new("files/writeback_without_memory", stacked::little_memory),
    Test::new("files/threads_are_out_of_reclaim", threads::out_of_reclaim),
    Test::new("files/frozen", frozen::frozen),
    Test::new("files/frozen_submitter", frozen::submitter),
    Test::new("files/full", full::no_space),
    Test::new("files/truncated_under_load", full::truncated),
    Test::new("files/times", times::times),
    Test::new("files/times_do_not_bounce", times::no_bounce),
    Test::new("files/discard_and_zero", discards::punched),
    Test::new("files/cannot_zero_a_range", discards::no_zero_range),
    Test::new("files/cannot_punch", discards::no_punch),
    Test::new("tracked/model_on_a_disk", tracked::on_a_disk),
    Test::new("tracked/model_on_a_file", tracked::on_a_file),
    Test::new("tracked/fences_under_load", tracked::fences_under_load),
    Test::new("tracked/fence_waits_for_the_disk", tracked::waits),
    Test::new("tracked/fence_killed", tracked::killed),
];

/// A kind of file system.
#[derive(Clone, Copy)]
struct Fs {
    mkfs: &'static str,
    fsck: &'static str,
    /// The smallest that is good for a test, MiB.
    mib: u64,
}

const EXT4: Fs = Fs {
    mkfs: "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=1 -J size=4",
    fsck: "e2fsck -fn",
    mib: 64,
};

const XFS: Fs = Fs {
    mkfs: "mkfs.xfs -q -f -K",
    fsck: "xfs_repair -n",
    mib: 320,
};

/// A file of random bytes on a file system and disk of its own.
struct Image {
    bytes: Vec<u8>,
    path: PathBuf,
    mount: Mount,
    _disk: NullDisk,
}

impl Image {
    fn new(fs: Fs, len: usize) -> Result<Image> {
        let disk = NullDisk::new(fs.mib, 512, &[])?;
        let mount = Mount::make(fs.mkfs, &disk.node())?;
        let (path, bytes) = image(mount.dir(), "image", len)?;
        Ok(Image {
            bytes,
            path,
            mount,
            _disk: disk,
        })
    }

    fn device(&self) -> Result<Ubd> {
        device(&self.path)
    }

    /// Somebody who uses the image through `ubd`, and has written a little: the next writes need
    /// neither times nor privileges changed.
    fn user(&self, ubd: &Ubd) -> Result<RawUser> {
        let mut user = RawUser::of(&ubd.node(), self.bytes.clone())?;
        user.write(2)?;
        Ok(user)
    }
}

/// A device over a file, past its page cache, all mapped.
fn device(path: &Path) -> Result<Ubd> {
    Ubd::add(&[
        "-t loop --direct-io=on --bpf-fastpath -f",
        &path.to_string_lossy(),
    ])
}

/// `run` does direct I/O to `ubd` and gives the number; all of it goes to the file, and all but a few
/// in the submitter's context: once a second a write goes to a thread, for the times, and so do those
/// that follow until it is done. An EAGAIN, which anybody on the file system may bring about, sends
/// what comes within 10 ms to the threads: where that was more of a short run than it may be, it runs
/// again.
fn mostly_inline(ubd: &Ubd, queue: u64, mut run: impl FnMut() -> Result<u64>) -> Result<()> {
    let mut tries = 0;
    loop {
        let (start, mut ios) = (Instant::now(), 0);
        let count = growth(ubd, || {
            ios = run()?;
            Ok(())
        })?;
        let took = start.elapsed();
        let (inline, worker) = (count["file_inline"], count["file_worker"]);
        let few = (4 + (took.as_secs() + 1) * queue).max(ios / 20);
        let eagain = count["inline_eagain"];
        if inline + worker >= ios
            && inline >= ios / 2
            && eagain <= few
            && worker <= few + eagain * (ios / 4)
        {
            return Ok(());
        }
        tries += 1;
        ensure!(
            eagain > 0 && tries < 5,
            "of {ios} I/Os within {took:?}: {}",
            count.summary()
        );
    }
}

/// At least `ios` went to a thread, and nothing else happened.
fn never_inline(count: &Counters, ios: u64) -> Result<()> {
    ensure!(
        count["file_inline"] == 0 && count["file_worker"] >= ios,
        "of {ios} I/Os: {}",
        count.summary()
    );
    Ok(())
}
