// SPDX-License-Identifier: MIT OR Apache-2.0
//! rublk and libublk's examples, which were written for ublk, serve ubd's devices: all they need
//! is links with the names that they look for.

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;
use ubd_bpf::uapi::ublk;

use std::time::Duration;

use crate::support::io::{read_direct, write_direct};
use crate::support::{needs_features, sh, wait_for, Background, Files, Fio, Prog, Skip, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test {
        name: "peer/rublk_null",
        run: null,
    },
    Test {
        name: "peer/rublk_loop",
        run: || looped(1),
    },
    Test {
        name: "peer/rublk_loop_q2",
        run: || looped(2),
    },
    Test {
        name: "peer/rublk_with_a_fast_path",
        run: mapped,
    },
    Test {
        name: "peer/rublk_user_copy",
        run: user_copy,
    },
    Test {
        name: "peer/rublk_zero_copy",
        run: zero_copy,
    },
    Test {
        name: "peer/rublk_recovery",
        run: recovery,
    },
    Test {
        name: "peer/libublk_null",
        run: || example("null", "", 0),
    },
    Test {
        name: "peer/libublk_null_user_copy",
        run: || example("null", "-u", ublk::F_USER_COPY),
    },
    Test {
        name: "peer/libublk_loop",
        run: || example("loop", "", 0),
    },
    Test {
        name: "peer/libublk_batch",
        run: || example("batch", "", 0),
    },
    Test {
        name: "peer/libublk_batch_zero_copy",
        run: || example("batch", "-z", ublk::F_AUTO_BUF_REG),
    },
    Test {
        name: "peer/libublk_ramdisk_recovery",
        run: ramdisk,
    },
];

/// Numbers that the links are for.
const IDS: std::ops::Range<u32> = 30..34;

/// Links that dangle until the nodes appear.
struct Links;

impl Links {
    fn new() -> Result<Links> {
        if sh("command -v rublk").is_err() {
            return Err(Skip("there is no rublk".into()).into());
        }
        let links = Links;
        sh("ln -sfn ubd-control /dev/ublk-control")?;
        for id in IDS {
            sh(format!(
                "ln -sfn ubdc{id} /dev/ublkc{id}; ln -sfn ubdb{id} /dev/ublkb{id}"
            ))?;
        }
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let _ = sh("find /dev -maxdepth 1 -name 'ublk*' -type l -delete");
    }
}

/// `rublk add`, and the disk that comes of it.
fn rublk(id: u32, target: &str) -> Result<Ubd> {
    let said = sh(format!(
        "timeout 60 rublk add {target} -n {id} 2>&1; settle"
    ));
    let device = Ubd::adopt(id);
    let said = said.context("rublk add failed")?;
    let state = device
        .attr("ubd/state")
        .with_context(|| format!("there is no disk; rublk said: {said}"))?;
    ensure!(state == "live", "state {state}; rublk said: {said}");
    let info = Control::open()?.dev_info(id)?;
    ensure!(
        info.ublksrv_pid as u32 == device.pid()? && info.ublksrv_pid > 0,
        "pid {}",
        info.ublksrv_pid
    );
    Ok(device)
}

/// `rublk del` must do it alone.
fn delete(device: Ubd) -> Result<()> {
    sh(format!("timeout 60 rublk del -n {} 2>&1", device.id()))?;
    ensure!(
        Control::open()?.dev_info(device.id()).is_err(),
        "rublk has not deleted the device"
    );
    std::mem::forget(device);
    Ok(())
}

fn null() -> Result<()> {
    let _links = Links::new()?;
    let device = rublk(30, "null -q 2 -d 32")?;
    let before = device.counters()?;
    let done = Fio::new(&device.node(), 2000).option("size=64M").run()?;
    ensure!(done >= 2000, "fio did {done}");
    device.counters()?.since(&before).all_declined(2000)?;
    let listed = sh(format!("rublk list -n {} 2>&1", device.id()))?;
    ensure!(
        listed.contains("LIVE") || listed.contains("dev id"),
        "`rublk list` says\n{listed}"
    );
    delete(device)
}

fn looped(queues: u32) -> Result<()> {
    let _links = Links::new()?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let device = rublk(31, &format!("loop -f {} -q {queues}", backing.display()))?;
    let before = device.counters()?;
    Fio::verify(&device.node(), 2000).option("size=16M").run()?;
    device.counters()?.since(&before).all_declined(2000)?;
    sh(format!("blockdev --flushbufs {}", device.node()))?;
    let (device_bytes, file_bytes) = (
        read_direct(device.node(), 0, 1 << 20)?,
        read_direct(&backing, 0, 1 << 20)?,
    );
    ensure!(
        device_bytes == file_bytes && device_bytes.iter().any(|byte| *byte != 0),
        "device and file differ"
    );
    delete(device)
}

/// A server that knows nothing of programs gets a fast path from outside.
fn mapped() -> Result<()> {
    let _links = Links::new()?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let prog = Prog::load("checker", &[])?;
    let device = rublk(32, &format!("loop -f {}", backing.display()))?;
    sh(format!(
        "ubd-bpf slot add {} {} --direct",
        device.id(),
        backing.display()
    ))?;
    sh(format!("ubd-bpf bind {} {}", device.id(), prog.name()))?;
    let before = device.counters()?;
    Fio::verify(&device.node(), 2000).option("size=16M").run()?;
    let counted = device.counters()?.since(&before);
    ensure!(
        counted["mapped"] > 300 && counted["declined"] > 300 && counted["bad"] == 0,
        "{}",
        counted.summary()
    );
    delete(device)
}

/// A null device whose server reads and writes the char device; rublk's loop cannot.
fn user_copy() -> Result<()> {
    let _links = Links::new()?;
    needs_features(ublk::F_USER_COPY)?;
    let device = rublk(33, "null -u")?;
    asked_for(&device, ublk::F_USER_COPY)?;
    let before = device.counters()?;
    Fio::new(&device.node(), 2000).option("size=16M").run()?;
    device.counters()?.since(&before).all_declined(2000)?;
    delete(device)
}

fn zero_copy() -> Result<()> {
    let _links = Links::new()?;
    needs_features(ublk::F_AUTO_BUF_REG)?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let device = rublk(33, &format!("loop -z -f {}", backing.display()))?;
    asked_for(&device, ublk::F_AUTO_BUF_REG)?;
    let before = device.counters()?;
    Fio::verify(&device.node(), 2000).option("size=16M").run()?;
    device.counters()?.since(&before).all_declined(2000)?;
    delete(device)
}

fn asked_for(device: &Ubd, feature: u64) -> Result<()> {
    let flags = Control::open()?.dev_info(device.id())?.flags;
    ensure!(flags & feature != 0, "rublk did not ask for it: {flags:#x}");
    Ok(())
}

/// rublk is killed, twice, with users that go on, and recovers its device: no I/O fails.
fn recovery() -> Result<()> {
    let _links = Links::new()?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let device = rublk(31, &format!("loop -r -f {}", backing.display()))?;
    let fio = Fio::verify(&device.node(), 4000)
        .option("size=16M")
        .option("rate_iops=400");
    for _ in 0..2 {
        let mut load = Background::start(fio.command())?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(load.is_running(), "{}", load.finish()?);
        let pid = device.pid()?;
        // rublk does not ask for REISSUE: what it has in hand when it dies is lost.
        sh("pkill -STOP -x fio; sleep 1")?;
        wait_for(
            "the end of what fio has in flight",
            Duration::from_secs(20),
            || {
                let flying = device.attr("inflight").unwrap_or_default();
                flying.split_whitespace().eq(["0", "0"])
            },
        )?;
        sh(format!("kill -9 {pid}"))?;
        wait_for("the device to be quiesced", Duration::from_secs(20), || {
            device
                .attr("ubd/state")
                .is_ok_and(|state| state == "quiesced")
        })?;
        // What comes now waits.
        sh("pkill -CONT -x fio; sleep 1")?;
        sh(format!("timeout 60 rublk recover -n {} 2>&1", device.id()))?;
        wait_for("the device to live", Duration::from_secs(20), || {
            device.attr("ubd/state").is_ok_and(|state| state == "live")
        })?;
        ensure!(device.pid()? != pid, "served by the dead");
        load.finish()?;
    }
    delete(device)
}

/// An example adds a device, which works, and deletes it.
fn example(name: &str, options: &str, feature: u64) -> Result<()> {
    let _links = Links::new()?;
    needs_features(feature)?;
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let file = match name {
        "loop" => format!("-f {}", backing.display()),
        _ => String::new(),
    };
    let id = IDS.start;
    // The server keeps the streams of the command that started it.
    let log = std::env::temp_dir().join("libublk.log");
    let added = sh(format!(
        "timeout 60 libublk-{name} add -n {id} {options} {file} >{0} 2>&1 </dev/null || {{ cat {0}; exit 1; }}
         settle",
        log.display()
    ));
    let device = Ubd::adopt(id);
    added.with_context(|| format!("`libublk-{name} add` failed"))?;
    // The command may return before its server has started the device.
    wait_for("the disk", Duration::from_secs(20), || {
        device.attr("ubd/state").is_ok_and(|state| state == "live")
    })
    .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let before = device.counters()?;
    let fio = match name {
        "loop" => Fio::verify(&device.node(), 2000),
        _ => Fio::new(&device.node(), 2000),
    };
    fio.option("size=16M").run()?;
    device.counters()?.since(&before).all_declined(2000)?;
    sh(format!("timeout 60 libublk-{name} del -n {id} 2>&1"))?;
    ensure!(Control::open()?.dev_info(id).is_err(), "it is not deleted");
    std::mem::forget(device);
    Ok(())
}

/// The RAM disk dies with its contents; its successor serves an empty one under the same users.
fn ramdisk() -> Result<()> {
    let _links = Links::new()?;
    let id = IDS.start;
    let said = sh(format!("timeout 60 libublk-ramdisk add {id} 32 2>&1"));
    let device = Ubd::adopt(id);
    said.context("`libublk-ramdisk add` failed")?;
    wait_for("the disk", Duration::from_secs(20), || {
        device.attr("ubd/state").is_ok_and(|state| state == "live")
    })?;
    Fio::verify(&device.node(), 1000).option("size=16M").run()?;
    write_direct(device.node(), 0, &[7; 4096])?;
    let user = std::fs::File::open(device.node())?;
    sh(format!("kill -9 {}", device.pid()?))?;
    wait_for("the device to be quiesced", Duration::from_secs(20), || {
        device
            .attr("ubd/state")
            .is_ok_and(|state| state == "quiesced")
    })?;
    sh(format!("timeout 60 libublk-ramdisk recover {id} 2>&1"))?;
    wait_for("the device to live", Duration::from_secs(20), || {
        device.attr("ubd/state").is_ok_and(|state| state == "live")
    })?;
    ensure!(
        read_direct(device.node(), 0, 4096)? == [0; 4096],
        "old data"
    );
    Fio::verify(&device.node(), 1000).option("size=16M").run()?;
    drop(user);
    sh(format!("timeout 60 libublk-ramdisk del {id} 2>&1"))?;
    ensure!(Control::open()?.dev_info(id).is_err(), "it is not deleted");
    std::mem::forget(device);
    Ok(())
}
