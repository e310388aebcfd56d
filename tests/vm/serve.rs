// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many devices: of one daemon, and of as many.

use std::fs;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use ubd_bpf::sysfs;

use crate::support::backing::noise;
use crate::support::io::{read_direct, write_direct};
use crate::support::{fails, sh, wait_for, Background, Files, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test::new("serve/sixty_four_from_one", from_one),
    Test::new("serve/sixty_four_from_sixty_four", from_many),
    Test::new("serve/all_or_nothing", all_or_nothing),
    Test::new("serve/killed_and_upgraded", killed),
];

const LIST: &str = "/tmp/devices";
const SMALL: &str = "-d 4 --max-io-size 64K";

fn there(count: usize) -> Result<()> {
    wait_for(
        &format!("{count} devices"),
        Duration::from_secs(300),
        || {
            let ids = sysfs::device_ids().unwrap_or_default();
            let live = |id: &u32| {
                fs::read_to_string(format!("/sys/block/ubdb{id}/ubd/state"))
                    .is_ok_and(|state| state.trim_end() == "live")
            };
            ids.iter().filter(|id| live(id)).count() == count && ids.len() == count
        },
    )
}

/// Bytes of its own on every device, all at once, and then each read back.
fn use_all(ids: &[u32]) -> Result<()> {
    let node = |id: u32| format!("/dev/ubdb{id}");
    std::thread::scope(|scope| {
        let writers: Vec<_> = ids
            .iter()
            .map(|&id| scope.spawn(move || write_direct(node(id), 0, noise(id as usize, 65536))))
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().expect("a writer"))
    })?;
    for &id in ids {
        ensure!(
            read_direct(node(id), 0, 65536)? == noise(id as usize, 65536),
            "device {id} holds something else"
        );
    }
    Ok(())
}

/// 64 windows of one file.
fn window(path: &str, number: u32) -> String {
    format!(
        "loop -f '{path}' --offset {} --sizelimit 64K {SMALL}",
        number << 16
    )
}

fn from_one() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("with a blank", 4 << 20)?.display().to_string();
    let lines: Vec<_> = (0..64).map(|number| window(&path, number)).collect();
    fs::write(
        LIST,
        format!("# all of one\n\n{}\n", lines.join(" # and\n")),
    )?;
    let server = Background::start(format!("exec ubd serve {LIST}"))?;
    there(64)?;
    let ids = sysfs::device_ids()?;
    use_all(&ids)?;
    let pids: std::collections::BTreeSet<u32> = ids
        .iter()
        .map(|&id| Ubd::adopt(id))
        .map(|ubd| {
            let pid = ubd.pid();
            std::mem::forget(ubd);
            pid
        })
        .collect::<Result<_>>()?;
    ensure!(pids.len() == 1, "{} daemons", pids.len());

    // Each ends on its own, and all when the daemon is asked to.
    sh(format!("ubd del {}", ids[7]))?;
    there(63)?;
    let rest: Vec<_> = ids.iter().copied().filter(|id| *id != ids[7]).collect();
    use_all(&rest)?;
    for pid in &pids {
        sh(format!("kill {pid}"))?;
    }
    let said = server
        .finish()
        .context("`ubd serve` that was asked to end")?;
    ensure!(
        said.lines().count() == 64 && said.contains("/dev/ubdb63: loop on"),
        "{said}"
    );
    there(0)
}

fn from_many() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("many", 4 << 20)?.display().to_string();
    let lines: Vec<_> = (0..64).map(|number| window(&path, number)).collect();
    fs::write(LIST, lines.join("\n"))?;
    sh(format!("xargs -a {LIST} -P 4 -L 1 ubd add"))?;
    there(64)?;
    let ids = sysfs::device_ids()?;
    use_all(&ids)?;
    let daemons = sh("pgrep -c -x ubd")?;
    ensure!(daemons == "64", "{daemons} daemons");
    sh("settle; ubd del -a")?;
    there(0)
}

fn all_or_nothing() -> Result<()> {
    let taken = Ubd::add(&["-t null -s 16M -n 5"])?;
    for (bad, code, words) in [
        ("null -n 5", 2, "exists"),
        ("loop -f /no/such/file", 1, "line 3"),
        ("null --show", 2, "line 3"),
        ("null 'x", 2, "line 3"),
        ("null --size", 2, "line 3"),
    ] {
        fs::write(LIST, format!("null -s 16M\nnull -s 16M\n{bad}\n"))?;
        let said = fails(code, format!("timeout 60 ubd serve {LIST}"))?;
        ensure!(said.contains(words), "`ubd serve` says `{said}`");
        there(1).context(bad)?;
    }
    fs::write(LIST, "# nothing\n")?;
    ensure!(fails(2, format!("ubd serve {LIST}"))?.contains("no devices"));
    fails(1, "ubd serve /no/such/list")?;
    taken.del()
}

/// The devices of one daemon that dies are recovered one by one; one that is upgraded leaves it.
fn killed() -> Result<()> {
    let files = Files::ext4()?;
    let path = files.file("some", 4 << 20)?.display().to_string();
    let lines: Vec<_> = (0..4)
        .map(|number| format!("{} --recovery", window(&path, number)))
        .collect();
    fs::write(LIST, lines.join("\n"))?;
    let server = Background::start(format!("exec ubd serve {LIST}"))?;
    there(4)?;
    let ids = sysfs::device_ids()?;
    let pid = |id: u32| sh(format!("cat /sys/block/ubdb{id}/ubd/daemon_pid"));
    use_all(&ids)?;
    let first = pid(ids[0])?;
    sh(format!("ubd upgrade {}", ids[3]))?;
    ensure!(pid(ids[3])? != first && pid(ids[2])? == first);
    use_all(&ids)?;
    sh(format!("kill -9 {first}"))?;
    ensure!(server.finish().is_err(), "it was killed");
    for &id in &ids[..3] {
        sh(format!("ubd recover {id}"))?;
    }
    there(4)?;
    use_all(&ids)?;
    sh("settle; ubd del -a")?;
    there(0)
}
