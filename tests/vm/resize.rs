// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that change their size while they are in use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::support::backing::noise;
use crate::support::io::{open_direct, read_direct, write_direct};
use crate::support::mount::Mount;
use crate::support::tree::{EXT4, XFS};
use crate::support::{fails, growth, sh, wait_for, Background, Files, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("resize/ext4_grows_mounted_and_mapped", || {
        grows(EXT4.mkfs, "resize2fs", (32, 96), "--bpf-fastpath")
    }),
    Test::new("resize/xfs_grows_mounted", || {
        grows(XFS.mkfs, "xfs_growfs -d", (320, 640), "")
    }),
    Test::new("resize/null", null),
    Test::new("resize/loop_both_ways", both_ways),
    Test::new("resize/several_members", several_members),
    Test::new("resize/refused", refused),
];

const MIB: u64 = 1 << 20;

fn size(ubd: &Ubd) -> Result<u64> {
    Ok(ubd.attr("size")?.parse::<u64>()? * 512)
}

fn resize(ubd: &Ubd, to: &str) -> Result<u64> {
    sh(format!("ubd resize {} {to}", ubd.id()))?;
    size(ubd)
}

/// A file, gone when dropped.
struct Sparse(String);

impl Sparse {
    fn new(name: &str, mib: u64) -> Result<Sparse> {
        let file = Sparse(format!("/tmp/{name}"));
        file.set(mib)?;
        Ok(file)
    }

    fn set(&self, mib: u64) -> Result<()> {
        sh(format!("truncate -s {mib}M {}", self.0)).map(drop)
    }
}

impl Drop for Sparse {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A mounted file system gets the room that its backing has got.
fn grows(mkfs: &str, grow: &str, (from, to): (u64, u64), options: &str) -> Result<()> {
    let file = Sparse::new("grows", from)?;
    let ubd = Ubd::add(&["-t loop -f", &file.0, options])?;
    let mount = Mount::make(mkfs, &ubd.node())?;
    let dir = mount.dir().display().to_string();
    sh(format!("dd if=/dev/urandom of={dir}/old bs=1M count=8 conv=fsync status=none; sha256sum {dir}/old > /tmp/sums"))?;

    let events = Background::start("timeout 120 udevadm monitor --kernel --property --subsystem-match=block > /tmp/events || true")?;
    wait_for("the monitor", Duration::from_secs(20), || {
        fs::read_to_string("/tmp/events").is_ok_and(|text| text.contains("KERNEL"))
    })?;
    file.set(to)?;
    ensure!(size(&ubd)? == from * MIB, "the device has grown by itself");
    ensure!(resize(&ubd, "max")? == to * MIB);
    wait_for("the uevent", Duration::from_secs(20), || {
        let text = fs::read_to_string("/tmp/events").unwrap_or_default();
        text.contains("RESIZE=1") && text.contains(&format!("DEVNAME={}", ubd.node()))
    })?;
    drop(events);

    let target = if grow.starts_with("xfs") {
        &dir
    } else {
        &ubd.node()
    };
    sh(format!("{grow} {target}"))?;
    let before = ubd.counters()?;
    let room: u64 = sh(format!("df -m --output=size {dir} | tail -1"))?
        .trim()
        .parse()?;
    ensure!(room > to * 2 / 3, "the file system has {room} MiB");
    let fill = 36;
    sh(format!(
        "dd if=/dev/urandom of={dir}/new bs=1M count={fill} conv=fsync status=none
         sha256sum {dir}/new >> /tmp/sums"
    ))
    .context("writing into the new room")?;
    let count = ubd.counters()?.since(&before);
    if options.is_empty() {
        count.all_declined(1)?;
    } else {
        ensure!(
            count["write_declined"] == 0 && count["write_mapped_sectors"] >= fill * 2048,
            "{}",
            count.summary()
        );
    }
    drop(mount);
    let mount = Mount::existing(&ubd.node())?;
    sh("sha256sum --quiet -c /tmp/sums")?;
    drop(mount);
    ubd.del()
}

fn null() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M -b 4096"])?;
    ensure!(resize(&ubd, "64M")? == 64 * MIB);
    read_direct(ubd.node(), 63 * MIB, 4096)?;
    ensure!(resize(&ubd, "4K")? == 4096);
    ensure!(read_direct(ubd.node(), 4096, 4096).map_or(0, |data| data.len()) == 0);
    for bad in ["max", "0", "512", "1000"] {
        fails(2, format!("ubd resize {} {bad}", ubd.id()))?;
    }
    ensure!(size(&ubd)? == 4096);
    ubd.del()
}

/// What is shown ends where it should, for the program and for the daemon.
fn both_ways() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("disk", 32 * MIB)?;
    for options in ["--bpf-fastpath", "--bpf-fastpath --recovery", ""] {
        let ubd = Ubd::add(&[
            "-t loop --direct-io --offset 1M --sizelimit 8M",
            options,
            "-f",
            &path.display().to_string(),
        ])?;
        ensure!(resize(&ubd, "24M")? == 24 * MIB);
        let data = noise(options.len(), 64 << 10);
        let count = growth(&ubd, || write_direct(ubd.node(), 23 * MIB, data))?;
        match options {
            "" => count.all_declined(1)?,
            _ => count.all_mapped(1)?,
        }
        ensure!(read_direct(&path, 24 * MIB, data.len())? == data);
        ensure!(resize(&ubd, "max")? == 31 * MIB);
        ensure!(resize(&ubd, "2M")? == 2 * MIB);
        // Whoever knows how large the file is gets no more of it.
        let file = open_direct(ubd.node(), true)?;
        let mut buffer = crate::support::io::Aligned::new(4096);
        let read = std::os::unix::fs::FileExt::read_at(&file, &mut buffer, 2 * MIB)?;
        ensure!(read == 0, "{read} bytes behind the end");
        drop(file);
        if options.contains("recovery") {
            ensure!(resize(&ubd, "16M")? == 16 * MIB);
            let pid = ubd.pid()?;
            sh(format!("kill -9 {pid}"))?;
            wait_for("state quiesced", Duration::from_secs(20), || {
                ubd.attr("ubd/state").is_ok_and(|state| state == "quiesced")
            })?;
            sh(format!("ubd recover {}; ubd-bpf unbind {0}", ubd.id()))?;
            ensure!(size(&ubd)? == 16 * MIB, "the new daemon has another size");
            write_direct(ubd.node(), 15 * MIB, data)?;
            ensure!(read_direct(&path, 16 * MIB, data.len())? == data);
        }
        ubd.del()?;
    }
    Ok(())
}

/// Of a concatenation the last file, of a stripe all of them.
fn several_members() -> Result<()> {
    let files = Files::ext4()?;
    let [a, b] = ["a", "b"].map(|name| files.dir().join(name));
    let set = |path: &Path, mib: u64| sh(format!("truncate -s {mib}M {}", path.display()));
    for (kind, start, grown, shrunk, place) in [("concat", 12, 24, 6, 16), ("stripe", 8, 32, 6, 16)]
    {
        set(&a, 4)?;
        set(&b, 8)?;
        let ubd = Ubd::add(&[
            "-t",
            kind,
            "--direct-io --bpf-fastpath -f",
            &a.display().to_string(),
            "-f",
            &b.display().to_string(),
        ])?;
        ensure!(size(&ubd)? == start * MIB, "{kind}");
        let old = noise(3, 1 << 20);
        write_direct(ubd.node(), 5 * MIB, old)?;
        if kind == "stripe" {
            set(&a, 16)?;
        }
        set(&b, 20)?;
        ensure!(resize(&ubd, "max")? == grown * MIB, "{kind}");
        let new = noise(4, 1 << 20);
        let count = growth(&ubd, || write_direct(ubd.node(), place * MIB, new))?;
        count.all_mapped(1).context(kind)?;
        // The daemon finds the same bytes.
        sh(format!("ubd-bpf unbind {}", ubd.id()))?;
        ensure!(
            read_direct(ubd.node(), place * MIB, new.len())? == new,
            "{kind}"
        );
        ensure!(
            read_direct(ubd.node(), 5 * MIB, old.len())? == old,
            "{kind}"
        );
        write_direct(ubd.node(), (grown - 1) * MIB, new)?;
        ensure!(
            resize(&ubd, &format!("{shrunk}M"))? == shrunk * MIB,
            "{kind}"
        );
        ensure!(
            read_direct(ubd.node(), 5 * MIB, old.len())? == old,
            "{kind}"
        );
        ubd.del()?;
        sh(format!("rm {} {}", a.display(), b.display()))?;
    }
    sh("ubd-bpf unload stripe").map(drop)
}

fn refused() -> Result<()> {
    let file = Sparse::new("refused", 32)?;
    let ubd = Ubd::add(&["-t loop --bpf-fastpath -f", &file.0])?;
    let says = |to: &str, words: &str| -> Result<()> {
        let said = fails(2, format!("ubd resize {} {to}", ubd.id()))?;
        ensure!(said.contains(words), "`ubd resize` says `{said}`");
        ensure!(size(&ubd)? == 32 * MIB, "it was resized");
        Ok(())
    };
    says("64M", "truncate")?;
    says("0", "positive multiple")?;
    says("1000", "positive multiple")?;
    says("most", "most")?;
    let mount = Mount::make("mkfs.ext4 -q", &ubd.node())?;
    says("16M", "mounted")?;
    drop(mount);
    let open = open_direct(ubd.node(), false)?;
    says("16M", "open")?;
    sh(format!("ubd resize --force {} 16M", ubd.id()))?;
    ensure!(size(&ubd)? == 16 * MIB);
    drop(open);
    ubd.del()
}
