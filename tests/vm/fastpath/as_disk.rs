// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device behaves as any disk: iostat, its end, being read-only, partitions.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::support::backing::{noise, same, Backing, Kind};
use crate::support::io::{open_direct, read_direct, write_direct, Aligned};
use crate::support::{fails, sh, wait_for, Fio, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("as_disk/iostat_disk_mapped", || {
        iostat(Kind::Disk, "--bpf-fastpath")
    }),
    Test::new("as_disk/iostat_file_mapped", || {
        iostat(Kind::FileDirect, "--bpf-fastpath")
    }),
    Test::new("as_disk/iostat_declined", || iostat(Kind::Disk, "")),
    Test::new("as_disk/read_only", read_only),
    Test::new("as_disk/end_of_disk_mapped", || {
        end_of_disk(Kind::Disk, "--bpf-fastpath")
    }),
    Test::new("as_disk/end_of_file_mapped", || {
        end_of_disk(Kind::FileDirect, "--bpf-fastpath")
    }),
    Test::new("as_disk/end_of_disk_declined", || {
        end_of_disk(Kind::Disk, "")
    }),
    Test::new("as_disk/partitions", partitions),
    Test::new("as_disk/cgroup_mapped", || in_cgroup("--bpf-fastpath")),
    Test::new("as_disk/cgroup_declined", || in_cgroup("")),
];

/// Fields of `/sys/block/X/stat`: ios and sectors read, ios and sectors written, in flight.
fn stat(ubd: &Ubd) -> Result<[u64; 5]> {
    let text = ubd.attr("stat")?;
    let fields: Vec<u64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok([fields[0], fields[2], fields[4], fields[6], fields[8]])
}

fn iostat(kind: Kind, more: &str) -> Result<()> {
    let backing = Backing::new(kind)?;
    let ubd = backing.device(more)?;
    // Open until the end: udev reads a disk that was closed after writing.
    let file = open_direct(ubd.node(), true)?;
    let (before, counters) = (stat(&ubd)?, ubd.counters()?);
    let mut buffer = Aligned::new(8192);
    for number in 0..10 {
        file.read_exact_at(&mut buffer, number * 12288)?;
    }
    for number in 0..7 {
        file.write_all_at(&buffer[..4096], number * 8192 + 512)?;
    }
    let (after, count) = (stat(&ubd)?, ubd.counters()?.since(&counters));
    let grown = [0, 1, 2, 3].map(|field| after[field] - before[field]);
    ensure!(
        grown == [10, 160, 7, 56],
        "iostat grew by {grown:?} for 10 reads of 16 and 7 writes of 8 sectors"
    );
    ensure!(after[4] == 0, "{} I/Os are in flight", after[4]);
    let which = if more.is_empty() {
        "declined"
    } else {
        "mapped"
    };
    let counted =
        ["read", "read_sectors", "write", "write_sectors"].map(|name| match name.split_once('_') {
            None => count[&format!("{name}_{which}")],
            Some((op, _)) => count[&format!("{op}_{which}_sectors")],
        });
    ensure!(
        counted == grown,
        "iostat says {grown:?}, the counters say {}",
        count.summary()
    );
    Ok(())
}

fn read_only() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let ubd = backing.device("--read-only --bpf-fastpath")?;
    ensure!(ubd.attr("ro")? == "1", "the disk is not read-only");
    let slots = sh(format!("ubd-bpf slot list {} -J", ubd.id()))?;
    let before = ubd.counters()?;
    let is = read_direct(ubd.node(), 0, 65536)?;
    same(&is, &backing.shown()[..65536])?;
    ubd.counters()?.since(&before).all_mapped(1)?;
    for how in ["", "conv=fsync", "oflag=direct"] {
        fails(
            1,
            format!("dd if=/dev/zero of={} bs=4k count=1 {how}", ubd.node()),
        )?;
    }
    fails(1, format!("blkdiscard -fz {}", ubd.node()))?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["write_mapped"] + count["write_declined"] + count["bad"] == 0,
        "{}",
        count.summary()
    );
    ensure!(
        slots.contains("read_only") || slots.contains("\"write\""),
        "the slot's mode is missing: {slots}"
    );
    ubd.del()?;
    backing.check(&backing.shown())
}

/// Reads end and writes fail where the device does, though the backing goes on.
fn end_of_disk(kind: Kind, more: &str) -> Result<()> {
    let backing = Backing::new(kind)?;
    let ubd = backing.device(more)?;
    let size = backing.window.len() as u64;
    let in_sysfs: u64 = ubd.attr("size")?.parse()?;
    ensure!(
        in_sysfs * 512 == size,
        "{in_sysfs} sectors for {size} bytes"
    );
    let before = ubd.counters()?;
    let file = open_direct(ubd.node(), true)?;
    let mut model = backing.shown();

    let mut buffer = Aligned::new(8192);
    let n = file
        .read_at(&mut buffer, size - 1024)
        .context("read across the end")?;
    ensure!(n == 1024, "a read across the end gave {n} bytes");
    same(&buffer[..n], &model[model.len() - 1024..])?;
    let n = file.read_at(&mut buffer, size).context("read at the end")?;
    ensure!(n == 0, "a read at the end gave {n} bytes");

    let data = Aligned::copy_of(noise(1, 8192), 0);
    let n = file
        .write_at(&data, size - 1024)
        .context("write across the end")?;
    ensure!(n == 1024, "a write across the end wrote {n} bytes");
    let tail = model.len() - 1024;
    model[tail..].copy_from_slice(&data[..1024]);
    let error = file
        .write_at(&data, size)
        .err()
        .and_then(|err| err.raw_os_error());
    ensure!(
        error == Some(libc::ENOSPC),
        "a write at the end gave {error:?}"
    );

    let count = ubd.counters()?.since(&before);
    if more.is_empty() {
        count.all_declined(2)?;
    } else {
        count.all_mapped(2)?;
    }
    drop(file);
    ubd.del()?;
    backing.check(&model)
}

/// A boot sector with partitions of Linux: (first sector, sectors).
fn partition_table(parts: &[(u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (number, (first, sectors)) in parts.iter().enumerate() {
        let entry = &mut sector[446 + number * 16..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn partitions() -> Result<()> {
    let backing = Backing::new(Kind::Disk)?;
    let ubd = backing.device("--bpf-fastpath")?;
    write_direct(
        ubd.node(),
        0,
        &partition_table(&[(2048, 4096), (6144, 6144)]),
    )?;
    // Busy as long as udev looks at the disk that was written to.
    let reread = format!("blockdev --rereadpt {}", ubd.node());
    wait_for("the partitions to be read", Duration::from_secs(10), || {
        sh(&reread).is_ok()
    })?;
    sh("settle")?;
    let part = format!("{}p2", ubd.node());
    let of_part =
        |name: &str| -> Result<String> { ubd.attr(&format!("ubdb{}p2/{name}", ubd.id())) };
    let start: u64 = of_part("start")?.parse()?;
    ensure!(
        of_part("size")? == "6144",
        "the partition has {} sectors",
        of_part("size")?
    );

    let before = ubd.counters()?;
    let ios = Fio::verify(&part, 700).run()?;
    let data = noise(42, 16384);
    write_direct(&part, 4096, data)?;
    same(&read_direct(&part, 4096, data.len())?, data)?;
    ubd.counters()?.since(&before).all_mapped(ios + 2)?;
    let writes: u64 = of_part("stat")?
        .split_whitespace()
        .nth(4)
        .context("stat is short")?
        .parse()?;
    ensure!(writes > 0, "the partition's iostat counts no writes");

    // Relative to the partition, the partition to the device, the device to its window.
    let at = backing.window.start as u64 + start * 512 + 4096;
    same(&read_direct(&backing.path, at, data.len())?, data).context("in the backing")?;
    let at = start * 512 + 4096;
    same(&read_direct(ubd.node(), at, data.len())?, data).context("in the device")
}

/// The first I/O of a control group counts as its own, on the device and on the disk below: the
/// backing's, or the hidden one.
fn in_cgroup(more: &str) -> Result<()> {
    const GROUP: &str = "/sys/fs/cgroup/ubd-first";
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop", &format!("-f {}", disk.node()), more])?;
    let before = ubd.counters()?;
    let stat = sh(format!(
        "echo +io > /sys/fs/cgroup/cgroup.subtree_control; mkdir {GROUP}; trap 'rmdir {GROUP}' EXIT
         ( echo $BASHPID > {GROUP}/cgroup.procs
           dd if={} of=/dev/null bs=4k count=1 iflag=direct status=none )
         cat {GROUP}/io.stat",
        ubd.node()
    ))?;
    let count = ubd.counters()?.since(&before);
    let mut expected = vec![ubd.attr("dev")?];
    if more.is_empty() {
        count.all_declined(1)?;
    } else {
        count.all_mapped(1)?;
        expected.push(sh(format!("cat /sys/block/{}/dev", disk.name()))?);
    }
    let read: Vec<&str> = stat
        .lines()
        .filter(|line| line.contains(" rios=1 "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    ensure!(
        read.len() == 2 && expected.iter().all(|dev| read.contains(&dev.as_str())),
        "the group has read from other disks than {expected:?} and one more: {stat}"
    );
    Ok(())
}
