// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flush that fails below fails above.

use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

use super::broken::placed;
use super::flaky::{Fault, Flaky};
use crate::support::backing::noise;
use crate::support::io::{open_direct, Aligned};
use crate::support::mount::{image, Mount};
use crate::support::{growth, Quiet, Ubd, Way};
use crate::targets::data::Unload;

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Of two disks one cannot flush; and then it can.
pub fn fails(way: Way) -> Result<()> {
    let disks = [Flaky::new(0, 4)?, Flaky::new(1, 4)?];
    let _unload = (way == Way::Mapped).then_some(Unload("stripe"));
    let members = format!("-f {} -f {}", disks[0].node(), disks[1].node());
    let ubd = Ubd::add(&["-t stripe --chunk 8K", way.option(), &members])?;
    let _quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(3, 64 << 10), 0);
    let all = 0..4 << 11;
    let count = growth(&ubd, || {
        file.write_all_at(&data, 0)?;
        file.sync_data().context("the first flush")?;
        for disk in &disks {
            file.write_all_at(&data, 0)?;
            disk.set(std::slice::from_ref(&all), Some(Fault::Writes))?;
            for _ in 0..2 {
                let flushed = errno(file.sync_data());
                ensure!(
                    flushed == Some(libc::EIO),
                    "a flush that one disk could not do gave {flushed:?}"
                );
            }
            disk.set(&[], None)?;
            file.sync_data().context("the disk can flush again")?;
        }
        Ok(())
    })?;
    ensure!(
        count["bad"] == 0 && count["error"] == 0,
        "{}",
        count.summary()
    );
    let flushed = match way {
        Way::Declined => count["flush_daemon"],
        _ => count["flush_slots"],
    };
    ensure!(flushed >= 7, "{}", count.summary());
    drop(file);
    ubd.del()
}

/// A buffered file takes a write, and cannot write it back: the flush says so.
pub fn buffered() -> Result<()> {
    const EXT4: &str = "mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0 -J size=4";
    let disk = Flaky::new(0, 32)?;
    let mount = Mount::make(EXT4, &disk.node())?;
    let (path, _) = image(mount.dir(), "image", 2 << 20)?;
    let path = path.to_string_lossy().into_owned();
    let below = placed(&path, &(0..256))?;
    let (ubd, _prog) = Way::Mapped.device(&path, "")?;
    let quiet = Quiet::udev()?;
    let file = open_direct(ubd.node(), true)?;
    let data = Aligned::copy_of(noise(5, 64 << 10), 0);
    let count = growth(&ubd, || {
        file.write_all_at(&data, 1 << 20)?;
        file.sync_data().context("the first flush")?;
        disk.set(&below, Some(Fault::Writes))?;
        file.write_all_at(&data, 0).context("into the page cache")?;
        let flushed = errno(file.sync_data());
        disk.set(&[], None)?;
        ensure!(
            flushed == Some(libc::EIO),
            "a flush of what could not be written back gave {flushed:?}"
        );
        file.write_all_at(&data, 0)?;
        file.sync_data().context("the disk is good again")?;
        let mut is = Aligned::new(data.len());
        file.read_exact_at(&mut is, 0)?;
        crate::support::backing::same(&is, &data)
    })?;
    Way::Mapped.check(&["read", "write"], &count)?;
    drop(file);
    drop(quiet);
    ubd.del()?;
    mount.check("e2fsck -fn")
}
