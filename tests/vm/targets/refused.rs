// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes no device, or not the one that was asked for.

use anyhow::{ensure, Result};
use ubd_bpf::sysfs;

use super::data::Unload;
use super::members::Kind::{File, Loop};
use super::members::{Members, Shape};
use super::MIB;
use crate::support::backing::same;
use crate::support::io::{open_buffered, open_direct, read_direct};
use crate::support::{fails, sh, Files, NullDisk};

const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// The device of a disk that takes no writes takes none either, and says so.
pub fn read_only_member() -> Result<()> {
    let members = Members::new(
        Shape::Stripe(65536),
        true,
        &[(File, 2 * MIB), (Loop, 2 * MIB)],
    )?;
    let _unload = Unload("stripe");
    sh(format!("blockdev --setro {}", members.path(1)))?;
    for fast_path in ["", "--bpf-fastpath"] {
        let said = sh(format!(
            "ubd add --show {} {fast_path} 2>&1 >/tmp/node",
            members.options()
        ))?;
        let ubd = crate::support::Ubd::adopt(sysfs::parse_device(&sh("cat /tmp/node")?)?);
        sh("settle")?;
        ensure!(
            said.contains("the device is read-only") && said.contains(&members.path(1)),
            "nothing was said of it: {said}"
        );
        ensure!(ubd.attr("ro")? == "1", "the device may be written to");
        ensure!(
            open_direct(ubd.node(), true).is_err() || {
                let file = open_buffered(ubd.node())?;
                std::os::unix::fs::FileExt::write_at(&file, &[0; 512], 0).is_err()
            },
            "a write to a read-only device went well"
        );
        let before = ubd.counters()?;
        same(&read_direct(ubd.node(), 0, 4 * MIB)?, &members.shown())?;
        let count = ubd.counters()?.since(&before);
        match fast_path {
            "" => count.all_declined(1)?,
            _ => count.all_mapped(1)?,
        }
    }
    sh(format!("blockdev --setrw {}", members.path(1)))?;
    members.check(&members.shown())
}

/// Each is refused with a reason, and nothing of it stays.
pub fn no_device() -> Result<()> {
    let files = Files::ext4()?;
    let big = files.file("big", MIB as u64)?.display().to_string();
    let null = NullDisk::new(4, 512, &[])?;
    let small = files.file("small", 4096)?.display().to_string();
    let disk = format!("/dev/{}", null.name());
    sh(format!(
        "ln {big} {0}/link; ln -s {big} {0}/symlink; mknod {0}/node b $(stat -c '0x%t 0x%T' {disk})
         printf '\\x83\\0\\0\\0\\0\\x8\\0\\0\\0\\x10' | dd of={disk} bs=1 seek=450 status=none
         printf '\\x55\\xaa' | dd of={disk} bs=1 seek=510 conv=fsync status=none
         # udev looks at what was written, and a disk that is open is not read again
         settle; udevadm lock --device={disk} blockdev --rereadpt {disk}
         settle",
        files.dir().display()
    ))?;
    let dir = files.dir().display();
    let part = format!("{disk}p1");
    let cases = [
        (format!("concat -f {big}"), "2 to 64 files, not 1"),
        (format!("stripe -f {big}"), "2 to 64 files, not 1"),
        (
            format!("concat {}", format!("-f {big} ").repeat(65)),
            "not 65",
        ),
        (format!("concat -f {big} -f {big}"), "share bytes"),
        (format!("concat -f {big} -f {dir}/link"), "share bytes"),
        (format!("stripe -f {big} -f {dir}/symlink"), "share bytes"),
        (format!("stripe -f {disk} -f {dir}/node"), "share bytes"),
        (format!("concat -f {disk} -f {part}"), "share bytes"),
        (
            format!("stripe -f {big} -f {small} --chunk 12K"),
            "power of two",
        ),
        (
            format!("stripe -f {big} -f {small} --chunk 2K"),
            "power of two",
        ),
        (
            format!("stripe -f {big} -f {small}"),
            "less than a chunk of 65536 bytes",
        ),
        (
            format!("concat -f {big} -f {disk} --direct-io=off"),
            "always used with direct I/O",
        ),
    ];
    for (case, why) in cases {
        for fast_path in ["", "--bpf-fastpath"] {
            let said = fails(2, format!("ubd add {case} {fast_path}"))?;
            ensure!(said.contains(why), "`{why}` is not in: {said}");
        }
    }
    let ids = sysfs::device_ids()?;
    ensure!(ids.is_empty(), "devices were left: {ids:?}");
    let programs = sh("ls /sys/fs/bpf/ubd 2>/dev/null || true")?;
    ensure!(
        !programs.contains("concat"),
        "programs were left: {programs}"
    );
    Ok(())
}

/// The driver refuses a slot after the program of the device was loaded.
pub fn busy_member() -> Result<()> {
    let files = Files::ext4()?;
    let file = files.file("file", MIB as u64)?.display().to_string();
    let mounted = files.disk().node();
    let said = fails(
        2,
        format!("ubd add concat -f {file} -f {mounted} --bpf-fastpath"),
    )?;
    ensure!(said.contains("in use"), "{said}");
    let programs = sh("ls /sys/fs/bpf/ubd 2>/dev/null || true")?;
    ensure!(
        !programs.contains("concat"),
        "programs were left: {programs}"
    );
    Ok(())
}

/// Somebody who has root's rights over the driver, but may lock little memory, is told what to do.
/// (A user's own device locks none.)
pub fn locked_memory() -> Result<()> {
    sh("mkdir -p /run/ubd; chmod 666 /dev/ubd-control")?;
    // The buffers of its tags are what does not fit any more.
    let said = fails(
        77,
        format!(
            "prlimit --memlock=268435456 -- {NOBODY} --inh-caps=+sys_admin,+dac_override \
             --ambient-caps=+sys_admin,+dac_override $(which ubd) add null -d 1024"
        ),
    );
    sh("chmod 600 /dev/ubd-control")?;
    let said = said?;
    ensure!(
        said.contains("ulimit -l") && said.contains("root"),
        "{said}"
    );
    Ok(())
}
