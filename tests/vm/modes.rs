// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ways in which data gets to the daemon, and devices of people who are not root.

use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use crate::support::backing::{Backing, Kind};
use crate::support::io::{open_direct, read_direct, write_direct, Aligned};
use crate::support::model::Model;
use crate::support::{fails, needs_features, sh, Files, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("modes/user_copy_null", user_copy_null),
    Test::new("modes/user_copy_disk", || {
        model(Kind::Disk, "--user-copy", ublk::F_USER_COPY)
    }),
    Test::new("modes/user_copy_file", || {
        model(Kind::FileBuffered, "--user-copy", ublk::F_USER_COPY)
    }),
    Test::new("modes/zero_copy_disk", || {
        model(Kind::Disk, "--zero-copy", ublk::F_AUTO_BUF_REG)
    }),
    Test::new("modes/zero_copy_disk4k", || {
        model(Kind::Disk4k, "--zero-copy", ublk::F_AUTO_BUF_REG)
    }),
    Test::new("modes/zero_copy_file", || {
        model(Kind::FileDirect, "--zero-copy", ublk::F_AUTO_BUF_REG)
    }),
    Test::new("modes/zero_copy_alignment", zero_copy_alignment),
    Test::new("modes/refused", refused),
    Test::new("modes/a_users_own", users_own),
];

fn user_copy_null() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M --user-copy"])?;
    write_direct(ubd.node(), 0, &[7; 65536])?;
    ensure!(read_direct(ubd.node(), 0, 65536)? == [0; 65536]);
    ubd.del()
}

fn model(kind: Kind, mode: &str, feature: u64) -> Result<()> {
    let control = needs_features(feature)?;
    let backing = Backing::new(kind)?;
    let ubd = backing.device(&format!("-q 2 {mode}"))?;
    let flags = control.dev_info(ubd.id())?.flags;
    ensure!(flags & feature != 0, "the device has flags {flags:#x}");
    let mut model = Model::of(&ubd, backing.shown(), kind.clears())?;
    let before = ubd.counters()?;
    model
        .run(&ubd.node(), 3, 250)
        .context("the device is not as its model")?;
    ubd.counters()?.since(&before).all_declined(250)?;
    ubd.del()?;
    backing.check(&model.bytes)
}

/// Memory that the backing cannot take directly is refused above, as on the backing itself.
fn zero_copy_alignment() -> Result<()> {
    needs_features(ublk::F_AUTO_BUF_REG)?;
    for kind in [Kind::Disk, Kind::FileDirect] {
        let backing = Backing::new(kind)?;
        let ubd = backing.device("--zero-copy")?;
        let mask: usize = ubd.attr("queue/dma_alignment")?.parse()?;
        let file = open_direct(ubd.node(), true)?;
        for shift in [4, 256, 512, 1024] {
            let mut buffer = Aligned::shifted(4096, shift);
            let good = shift & mask == 0;
            for (what, result) in [
                ("read", file.read_at(&mut buffer, 0)),
                ("write", file.write_at(&buffer, 0)),
            ] {
                let errno = result.err().and_then(|err| err.raw_os_error());
                ensure!(
                    errno == (!good).then_some(libc::EINVAL),
                    "{kind:?}, alignment {mask}: a {what} with memory at {shift} gave {errno:?}"
                );
            }
        }
        drop(file);
        ubd.del()?;
    }
    Ok(())
}

/// What the driver, or the target, cannot do is said, and leaves no device.
fn refused() -> Result<()> {
    let said = fails(2, "ubd add -t null --zero-copy")?;
    ensure!(said.contains("means nothing to a null device"), "{said}");
    fails(2, "ubd add -t null --user-copy --zero-copy")?;
    fails(2, "ubd add -t null --on-daemon-death stop")?;
    fails(2, "ubd add -t null --recovery=perhaps")?;
    if Control::open()?.ublk_features()? & ublk::F_AUTO_BUF_REG == 0 {
        let files = Files::ext4()?;
        let path = files.file("disk", 1 << 20)?;
        let said = fails(
            2,
            format!("ubd add -t loop --zero-copy -f {}", path.display()),
        )?;
        ensure!(
            said.contains("AUTO_BUF_REG") && said.contains("ubd features"),
            "{said}"
        );
    }
    Ok(())
}

const NOBODY: &str =
    "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all";
const RULES: &str = "/etc/udev/rules.d/60-ubd.rules";

/// Everybody may have devices where the administrator says so, and nobody those of others.
fn users_own() -> Result<()> {
    needs_features(ublk::F_UNPRIVILEGED_DEV)?;
    sh(format!(
        "chmod 666 /dev/ubd-control; mkdir -p /etc/udev/rules.d
         cp /ubd/repo/udev/60-ubd.rules {RULES}; udevadm control --reload"
    ))?;
    let result = as_nobody();
    sh(format!(
        "chmod 600 /dev/ubd-control; rm -f {RULES}; udevadm control --reload"
    ))?;
    result
}

fn as_nobody() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("disk", 16 << 20)?.display().to_string();
    sh(format!(
        "chmod 755 {}; chown 65534:65534 {path}",
        files.dir().display()
    ))?;
    for roots in ["--bpf-fastpath", "--recovery", "--user-copy", "--zero-copy"] {
        let said = fails(77, format!("{NOBODY} ubd add -t loop -f {path} {roots}"))?;
        ensure!(said.contains(roots), "`ubd add {roots}` says `{said}`");
    }
    let node = sh(format!("{NOBODY} ubd add --show -t loop -q 2 -f {path}"))?;
    let id = node.trim_start_matches("/dev/ubdb").parse()?;
    let ubd = Ubd::adopt(id);
    sh("settle")?;
    for node in [format!("/dev/ubdc{id}"), ubd.node()] {
        let owner = sh(format!("stat -c %u:%g:%a {node}"))?;
        ensure!(owner == "65534:65534:600", "{node} is {owner}");
    }
    sh(format!(
        "{NOBODY} bash -e -c 'echo from a user | dd of={0} bs=512 conv=sync oflag=direct status=none
         dd if={0} bs=512 count=1 iflag=direct status=none | grep -q \"from a user\"
         ubd list {id} | grep -q live'",
        ubd.node()
    ))?;
    ensure!(sh(format!("head -c 11 {path}"))? == "from a user");
    read_direct(ubd.node(), 0, 4096).context("root reads it")?;
    sh(format!("ubd list {id}")).context("root lists it")?;
    let other = "setpriv --reuid=65533 --regid=65533 --clear-groups --inh-caps=-all";
    fails(77, format!("{other} ubd del --force {id}"))?;
    // Whatever the permissions of the node: a server that anybody can run is to be trusted by
    // those who run it.
    let read = fails(
        1,
        format!(
            "chmod 666 {0}; {other} dd if={0} of=/dev/null count=1",
            ubd.node()
        ),
    )?;
    ensure!(read.contains("Operation not permitted"), "{read}");
    sh(format!("{NOBODY} ubd resize {id} max"))
        .err()
        .context("a device without a record was resized")?;
    sh(format!("{NOBODY} ubd del {id}"))?;
    std::mem::forget(ubd);
    // And root may remove what a user leaves behind.
    let node = sh(format!("{NOBODY} ubd add --show -t null -s 16M"))?;
    sh(format!("settle; ubd del {node}")).map(drop)
}
