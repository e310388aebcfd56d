// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems on a device.

use anyhow::{ensure, Result};

use crate::support::tree::{check_backing, exercise, Kind, EXT4, XFS};
use crate::support::{sh, Counters, Files, Prog, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("fs/ext4_on_disk_mapped", || {
        on_disk("--bpf-fastpath", Expect::Mapped)
    }),
    Test::new("fs/ext4_on_disk_declined", || {
        on_disk("-q 2", Expect::Declined)
    }),
    Test::new("fs/ext4_on_file_mapped", || {
        on_file("--direct-io=on --bpf-fastpath")
    }),
    Test::new("fs/ext4_on_buffered_file_mapped", || {
        on_file("--bpf-fastpath")
    }),
    Test::new("fs/ext4_mixed", mixed),
    Test::new("fs/xfs_on_tmpfs_file_mapped", xfs_on_tmpfs),
];

enum Expect {
    Mapped,
    Declined,
}

/// A file system on a device, counted.
fn count(kind: &Kind, args: &str) -> Result<Counters> {
    let ubd = Ubd::add(&["-t loop", args])?;
    let before = ubd.counters()?;
    exercise(kind, &ubd.node())?;
    let count = ubd.counters()?.since(&before);
    // fsync and the journal flush; a program sees none of it.
    ensure!(
        count["flush_mapped"] + count["flush_declined"] > 0,
        "no flush: {}",
        count.summary()
    );
    ubd.del()?;
    Ok(count)
}

fn on_disk(args: &str, expect: Expect) -> Result<()> {
    let disk = RamDisk::new()?;
    let count = count(&EXT4, &format!("-f {} {args}", disk.node()))?;
    match expect {
        Expect::Declined => count.all_declined(100)?,
        Expect::Mapped => {
            // A RAM disk cannot write zeroes by itself: mkfs leaves those to the daemon.
            let data = count["read_declined"] + count["write_declined"];
            ensure!(
                data == 0 && count["bad"] == 0,
                "not all was mapped: {}",
                count.summary()
            );
            ensure!(
                count["mapped"] > 100 && count["flush_slots"] > 0,
                "{}",
                count.summary()
            );
        }
    }
    check_backing(&EXT4, &disk.node(), "-o ro")
}

fn on_file(args: &str) -> Result<()> {
    let files = Files::ext4()?;
    let file = files.file("image", 96 << 20)?;
    let file = file.display();
    let count = count(&EXT4, &format!("-f {file} {args}"))?;
    count.all_mapped(100)?;
    ensure!(
        count["file_worker"] > 100 && count["flush_slots"] > 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["discard_mapped"] > 0,
        "fstrim reached nobody: {}",
        count.summary()
    );
    sh("modprobe loop")?;
    check_backing(&EXT4, &file.to_string(), "-o loop,ro")
}

/// Half of everything goes the one way, half the other.
fn mixed() -> Result<()> {
    let disk = RamDisk::new()?;
    let _prog = Prog::load("decline_random", &["percent=50"])?;
    let count = count(
        &EXT4,
        &format!("-f {} -q 4 --bpf-fastpath=decline_random", disk.node()),
    )?;
    ensure!(
        count["read_mapped"] > 0 && count["read_declined"] > 0,
        "{}",
        count.summary()
    );
    ensure!(
        count["write_mapped"] > 0 && count["write_declined"] > 0,
        "{}",
        count.summary()
    );
    // The daemon has a cache of its own, and is asked first.
    ensure!(
        count["flush_daemon"] > 0 && count["flush_slots"] > 0,
        "{}",
        count.summary()
    );
    check_backing(&EXT4, &disk.node(), "-o ro")
}

/// XFS wants 300 MiB; a sparse file on tmpfs has them for nothing. tmpfs cannot zero a range in
/// place: that is left to the daemon, which cannot either, and the kernel writes zeroes.
fn xfs_on_tmpfs() -> Result<()> {
    sh("modprobe loop; rm -f /tmp/xfs; truncate -s 320M /tmp/xfs")?;
    let result = count(&XFS, "-f /tmp/xfs --bpf-fastpath").and_then(|count| {
        let declined = count["declined"] - count["write_zeroes_declined"] - count["flush_declined"];
        ensure!(
            declined == 0 && count["bad"] == 0 && count["error"] == 0,
            "{}",
            count.summary()
        );
        ensure!(
            count["file_worker"] > 100 && count["discard_mapped"] > 0,
            "{}",
            count.summary()
        );
        check_backing(&XFS, "/tmp/xfs", "-o loop,ro")
    });
    sh("rm -f /tmp/xfs")?;
    result
}
