// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file system in use, short of memory, whose device suffers everything that does not show.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use super::events::{Programs, Subject};
use super::model::{beside, options, tally};
use super::stage::Worker;
use crate::support::mount::Mount;
use crate::support::tree::EXT4;
use crate::support::{sh, RamDisk, Standby, Ubd};

/// The group whose memory is short.
pub const GROUP: &str = "/sys/fs/cgroup/ubd-soak";

pub fn lives(worker: &mut Worker) -> Result<()> {
    while worker.stage.goes_on() {
        live(worker)?;
        worker.stage.count("file systems", 1);
    }
    Ok(())
}

fn live(worker: &mut Worker) -> Result<()> {
    worker.does("make a file system");
    let disk = RamDisk::new()?;
    let node = disk.node();
    let programs = Programs::load(&worker.name)?;
    let options = options(worker, &programs)?;
    let ubd = Ubd::add(&["-t loop -f", &node, "--sizelimit 64M", &options])?;
    let mount = Mount::make(EXT4.mkfs, &ubd.node())?;
    let dir = mount.dir().display().to_string();
    let subject = Subject {
        ubd: &ubd,
        backing: Path::new(&node),
        direct: false,
        offset: 0,
        len: 64 << 20,
        // It is mounted.
        is_closed_often: false,
        programs,
        standby: Standby::start()?,
    };
    let end = Instant::now() + worker.span();
    let load = worker.helper("load");
    let used = beside(worker, &subject, || {
        let mut load = load;
        while Instant::now() < end {
            load.event("runs of fsx", |rng| {
                sh(format!(
                    "echo $BASHPID > {GROUP}/cgroup.procs
                     fsx -S {} -N 400 {dir}/fsx 2>&1; rm -f {dir}/fsx",
                    rng.u32(..)
                ))
                .map(drop)
            })?;
            load.event("copies of a tree", |_| {
                sh(format!(
                    "echo $BASHPID > {GROUP}/cgroup.procs
                     cp -a /tmp/tree/Europe {dir}/; sync -f {dir}; echo 1 > /proc/sys/vm/drop_caches
                     diff -r --no-dereference /tmp/tree/Europe {dir}/Europe; rm -r {dir}/Europe"
                ))
                .map(drop)
            })?;
        }
        Ok(())
    });
    used.with_context(|| format!("`{options}`"))?;
    worker.does("check the file system");
    mount.check(EXT4.fsck)?;
    tally(worker, &ubd)?;
    drop(subject);
    ubd.del()?;
    sh(format!("blockdev --flushbufs {node}; {} {node}", EXT4.fsck))
        .with_context(|| format!("the backing, `{options}`"))
        .map(drop)
}
