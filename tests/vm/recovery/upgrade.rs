// SPDX-License-Identifier: MIT OR Apache-2.0
//! A daemon that lives is replaced by another.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::killer::cycles;
use super::{is_in, listed, recover};
use crate::support::io::read_direct;
use crate::support::{fails, sh, slowness, Background, Dm, Fio, Prog, RamDisk, Ubd};

/// As long as it is there, there is load.
const LOADED: &str = "/tmp/loaded";

/// Whoever uses the device notices nothing.
pub fn under_load() -> Result<()> {
    let disk = RamDisk::new()?;
    let prog = Prog::load("checker", &["chunk=64"])?;
    let ubd = Ubd::add(&[
        "-t loop -q 2 --recovery=wait -f",
        &disk.node(),
        &format!("--bpf-fastpath={}", prog.name()),
    ])?;
    let job = Fio::verify(&ubd.node(), 1000)
        .option("size=16M")
        .option("bssplit=4k/60:16k/20:128k/20")
        .option("verify_backlog=64");
    let mut load = Background::start(format!(
        "touch {LOADED}; while [ -e {LOADED} ]; do {} > /dev/null; done",
        job.command()
    ))?;
    let before = ubd.counters()?;
    let times = cycles();
    for time in 0..times {
        let old = ubd.pid()?;
        let said = sh(format!("ubd upgrade {}", ubd.id())).with_context(|| format!("{time}"))?;
        ensure!(said == format!("{}: upgraded", ubd.node()), "{said}");
        let new = ubd.pid()?;
        ensure!(new != old, "it is the same daemon");
        sh(format!(
            "for i in $(seq 100); do kill -0 {old} 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
        ))
        .context("the old daemon lives on")?;
        ensure!(load.is_running(), "fio has ended");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::remove_file(LOADED)?;
    load.finish().context("the load has noticed")?;
    let count = ubd.counters()?.since(&before);
    ensure!(
        count["mapped"] > 0 && count["declined"] > 0,
        "{}",
        count.summary()
    );
    ubd.del()
}

/// A daemon that does not finish in time goes on.
pub fn in_vain() -> Result<()> {
    let disk = RamDisk::new()?;
    let valve = Dm::linear("ubdvalve", &disk.node(), 16)?;
    let ubd = Ubd::add(&["-t loop --recovery -f", &valve.node()])?;
    let pid = ubd.pid()?;
    valve.suspend()?;
    let mut read = Background::start(format!(
        "dd if={} of=/dev/null bs=4k count=1 iflag=direct",
        ubd.node()
    ))?;
    std::thread::sleep(Duration::from_millis(500) * slowness());
    let said = fails(2, format!("ubd upgrade {} --timeout 1", ubd.id()));
    ensure!(read.is_running(), "the read has not met the suspended disk");
    valve.resume()?;
    let said = said?;
    ensure!(said.contains("in time"), "`ubd upgrade` says `{said}`");
    read.finish().context("the read that was in hand")?;
    ensure!(ubd.pid()? == pid && listed(&ubd, "state")? == "live");
    read_direct(ubd.node(), 0, 4096)?;

    // Now it can.
    sh(format!("ubd upgrade {}", ubd.id()))?;
    ensure!(ubd.pid()? != pid);
    ubd.del()
}

/// The new daemon cannot begin: the device waits for one that can.
pub fn fails_half_way() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop --recovery -f", &disk.node()])?;
    let id = ubd.id();

    // What can be known before changes nothing.
    sh(format!("mv {0} {0}.away", disk.node()))?;
    let said = fails(1, format!("ubd upgrade {id}"));
    sh(format!("mv {0}.away {0}", disk.node()))?;
    ensure!(said?.contains("failed to find"));
    read_direct(ubd.node(), 0, 4096)?;

    sh(format!("mv /dev/ubdc{id} /dev/away"))?;
    let said = fails(1, format!("ubd upgrade {id}"));
    sh(format!("mv /dev/away /dev/ubdc{id}"))?;
    let said = said?;
    ensure!(
        said.contains(&format!("ubd recover {id}")),
        "`ubd upgrade` says `{said}`"
    );
    is_in(&ubd, "quiesced")?;
    recover(&ubd)?;
    read_direct(ubd.node(), 0, 4096)?;
    ubd.del()
}
