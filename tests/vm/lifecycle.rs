// SPDX-License-Identifier: MIT OR Apache-2.0
//! Daemons that die or freeze, devices that go while they are in use, programs that change under
//! load, and what is left of it all.

mod del;
mod programs;
mod ring;
mod unload;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use crate::control::server::{add, delete, open_node, Manners, Server, GOOD};
use crate::support::io::{open_direct, read_direct, Aligned};
use crate::support::{sh, slowness, wait_for, Background, Files, Fio, RamDisk, Test, Ubd};

pub const TESTS: &[Test] = &[
    Test {
        name: "lifecycle/kill_9_mapped_goes_on",
        run: kill_9,
    },
    Test {
        name: "lifecycle/sigstop_mapped_goes_on_declined_waits",
        run: sigstop,
    },
    Test {
        name: "lifecycle/stop_and_del_live",
        run: || stop_and_del(Daemon::Live),
    },
    Test {
        name: "lifecycle/stop_and_del_frozen",
        run: || stop_and_del(Daemon::Frozen),
    },
    Test {
        name: "lifecycle/stop_and_del_dead",
        run: || stop_and_del(Daemon::Dead),
    },
    Test {
        name: "lifecycle/server_that_never_answers",
        run: never_answers,
    },
    Test {
        name: "lifecycle/queue_thread_dies",
        run: queue_thread_dies,
    },
    Test::new(
        "lifecycle/ring_outlives_its_thread",
        ring::outlives_its_thread,
    ),
    Test::new(
        "lifecycle/ring_outlives_its_thread_waiting",
        ring::outlives_its_thread_waiting,
    ),
    Test::new(
        "lifecycle/attribute_waits_for_io",
        ring::attribute_waits_for_io,
    ),
    Test {
        name: "lifecycle/del_while_open",
        run: del::while_open,
    },
    Test {
        name: "lifecycle/del_while_mounted",
        run: del::while_mounted,
    },
    Test {
        name: "lifecycle/del_under_a_loop_device",
        run: del::under_a_loop_device,
    },
    Test {
        name: "lifecycle/replace_under_load",
        run: programs::replace_under_load,
    },
    Test {
        name: "lifecycle/bind_and_unbind_under_load",
        run: programs::bind_under_load,
    },
    Test {
        name: "lifecycle/unload_of_a_bound_program",
        run: programs::unload_bound,
    },
    Test {
        name: "lifecycle/two_hundred_lives",
        run: two_hundred,
    },
    Test {
        name: "lifecycle/rmmod_when_in_use_and_when_idle",
        run: unload::rmmod,
    },
];

/// STOP, DEL and the end of what is in flight take at most this: twice the driver's patience, and
/// time for a slow machine.
const BOUND: Duration = Duration::from_secs(30);

fn signal(pid: u32, signal: i32) {
    // SAFETY: signals a process; no memory is involved.
    unsafe { libc::kill(pid as i32, signal) };
}

/// The process is gone, or waits for its parent.
fn is_dead(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status
        .rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with('Z'))
}

/// fio for some seconds, verifying, mapped.
fn load(node: &str, seconds: u32) -> Result<Background> {
    let seconds = seconds * slowness();
    let job = Fio::verify(node, 1_000_000)
        .option("size=16M")
        .option("verify_backlog=64")
        .option(&format!("runtime={seconds}"))
        .option("time_based=1");
    Background::start(job.command())
}

fn mapped(ubd: &Ubd) -> Result<u64> {
    Ok(ubd.counters()?["mapped"])
}

/// More is mapped within a few seconds.
fn goes_on(ubd: &Ubd) -> Result<()> {
    let before = mapped(ubd)?;
    wait_for("mapped I/O to go on", Duration::from_secs(20), || {
        mapped(ubd).is_ok_and(|n| n > before + 50)
    })
}

fn kill_9() -> Result<()> {
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let ubd = Ubd::add(&[
        "-t loop -f",
        &backing.display().to_string(),
        "--direct-io=on --bpf-fastpath",
    ])?;
    let pid = ubd.pid()?;
    let before = ubd.counters()?;
    let load = load(&ubd.node(), 8)?;
    goes_on(&ubd)?;

    signal(pid, libc::SIGKILL);
    wait_for("state fail_io", BOUND, || {
        ubd.attr("ubd/state").is_ok_and(|state| state == "fail_io")
    })?;
    goes_on(&ubd)?;
    load.finish()
        .context("mapped I/O failed when the daemon died")?;
    ubd.counters()?.since(&before).all_mapped(100)?;

    // What nobody serves fails, at once.
    sh(format!("ubd-bpf unbind {}", ubd.id()))?;
    let start = Instant::now();
    let err = open_direct(ubd.node(), false)?
        .read_exact_at(&mut Aligned::new(4096), 0)
        .err();
    let err = err.context("a read was served without a daemon")?;
    ensure!(
        err.raw_os_error() == Some(libc::EIO),
        "a read without a daemon got {err}"
    );
    ensure!(
        start.elapsed() < BOUND * slowness(),
        "it took {:?}",
        start.elapsed()
    );
    sh(format!("ubd-bpf bind {} linear", ubd.id()))?;
    read_direct(ubd.node(), 0, 4096).context("bound again, it is mapped again")?;
    sh(format!(
        "timeout {} ubd del --force {}",
        (BOUND * slowness()).as_secs(),
        ubd.id()
    ))?;
    ensure!(
        !sh("ubd list -J")?.contains(&ubd.node()),
        "`ubd list` still has it"
    );
    Ok(())
}

fn sigstop() -> Result<()> {
    let disk = RamDisk::new()?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 32M --bpf-fastpath"])?;
    let pid = ubd.pid()?;
    let load = load(&ubd.node(), 8)?;
    goes_on(&ubd)?;
    signal(pid, libc::SIGSTOP);
    goes_on(&ubd)?;
    load.finish()
        .context("mapped I/O failed while the daemon was frozen")?;

    sh(format!("ubd-bpf unbind {}", ubd.id()))?;
    let mut reading = Background::start(format!(
        "dd if={} of=/dev/null bs=64k count=8 iflag=direct",
        ubd.node()
    ))?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        reading.is_running(),
        "a declined read did not wait for the frozen daemon"
    );
    signal(pid, libc::SIGCONT);
    let start = Instant::now();
    reading.finish().context("the read failed after SIGCONT")?;
    ensure!(
        start.elapsed() < BOUND * slowness(),
        "it took {:?}",
        start.elapsed()
    );
    ubd.del()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Live,
    Frozen,
    Dead,
}

/// STOP alone, then DEL of another, with declined I/O in flight.
fn stop_and_del(daemon: Daemon) -> Result<()> {
    let disk = RamDisk::new()?;
    for delete in [false, true] {
        let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 32M -q 2"])?;
        let pid = ubd.pid()?;
        let job = Fio::new(&ubd.node(), 1_000_000)
            .option("time_based=1")
            .option("runtime=120")
            .option("size=16M");
        let mut load = Background::start(job.command())?;
        let served = |least| {
            ubd.counters()
                .is_ok_and(|counters| counters["declined"] > least)
        };
        wait_for("the load to begin", BOUND, || served(50))?;
        match daemon {
            Daemon::Live => {}
            Daemon::Frozen => signal(pid, libc::SIGSTOP),
            Daemon::Dead => signal(pid, libc::SIGKILL),
        }
        if daemon != Daemon::Live {
            std::thread::sleep(Duration::from_millis(300));
        }
        let start = Instant::now();
        if delete {
            sh(format!("timeout 180 ubd del --force {}", ubd.id()))?;
        } else {
            Control::open()?.stop(ubd.id())?;
            ensure!(
                !std::fs::exists(format!("/sys/block/ubdb{}", ubd.id()))?,
                "the disk is still there"
            );
        }
        ensure!(
            start.elapsed() < BOUND * slowness(),
            "it took {:?}",
            start.elapsed()
        );
        wait_for("the load to end", BOUND, || !load.is_running())?;
        ensure!(
            load.finish().is_err(),
            "fio has not noticed that its disk was taken away"
        );
        if delete {
            wait_for("the daemon to be gone", BOUND, || is_dead(pid))?;
        }
        // Whatever it is in now, a frozen daemon must be able to wake up.
        signal(pid, libc::SIGCONT);
    }
    Ok(())
}

/// Starts a read that its server takes and keeps.
fn hanging_read(ubd: &Ubd, node: File) -> Result<(Server, JoinHandle<io::Result<()>>)> {
    let server = Server::spawn(
        node,
        4,
        Manners {
            answers: false,
            ..GOOD
        },
    );
    Control::open()?.start(ubd.id(), std::process::id())?;
    Ok((server, read_of(ubd)?))
}

/// Somebody who reads what nobody else does, of a device that has just started.
fn read_of(ubd: &Ubd) -> Result<JoinHandle<io::Result<()>>> {
    let disk = ubd.node();
    wait_for("the node", BOUND, || {
        std::fs::exists(&disk).unwrap_or(false)
    })?;
    Ok(std::thread::spawn(move || {
        File::open(disk)?.read_exact_at(&mut [0; 4096], 8 << 20)
    }))
}

fn ends_with_eio(read: JoinHandle<io::Result<()>>) -> Result<()> {
    wait_for("the read to end", BOUND, || read.is_finished())?;
    let err = read
        .join()
        .expect("joining")
        .err()
        .context("a read that nobody answered succeeded")?;
    ensure!(
        // The open waits for the partition scan, and may come too late for the disk.
        [Some(libc::EIO), Some(libc::ENXIO)].contains(&err.raw_os_error())
            || err.kind() == ErrorKind::UnexpectedEof,
        "the read got {err}"
    );
    Ok(())
}

/// Requests that a server has taken end with the device, though the server keeps them.
fn never_answers() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    let (server, read) = hanging_read(&ubd, open_node(ubd.id())?)?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(!read.is_finished(), "the read ended by itself");
    let start = Instant::now();
    control.stop(ubd.id())?;
    ensure!(
        start.elapsed() < BOUND * slowness(),
        "STOP took {:?}",
        start.elapsed()
    );
    ends_with_eio(read)?;
    ensure!(server.quit()? > 0, "the server has taken nothing");
    delete(&control, ubd)
}

/// The thread of a queue ends while its process, and the character node, live on: what it had taken
/// fails as if the whole server had died.
fn queue_thread_dies() -> Result<()> {
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    let node = open_node(ubd.id())?;
    let (server, read) = hanging_read(&ubd, node.try_clone()?)?;
    std::thread::sleep(Duration::from_millis(500));
    server.quit()?;
    let result = ends_with_eio(read);
    delete(&control, ubd)?;
    drop(node);
    result
}

/// What a device costs comes back.
fn two_hundred() -> Result<()> {
    let control = Control::open()?;
    let left = || -> Result<(String, usize)> {
        // Objects in use of the driver's caches, its threads; and files of ours. KASAN keeps
        // freed objects for a while, hence counts them.
        let objects = match slowness() {
            // Shrunk, or what is free on partly used slabs of a CPU counts as in use.
            1 => sh(
                "for cache in /sys/kernel/slab/ubd_*/shrink; do echo 1 > $cache; done
                awk '/^ubd/ { print $1, $2 }' /proc/slabinfo",
            )?,
            _ => String::new(),
        };
        let kernel = objects + &sh("ps -eo comm | grep -c '^ubd' || true")?;
        Ok((kernel, std::fs::read_dir("/proc/self/fd")?.count()))
    };
    let before = left()?;
    for nr in 0..200 {
        let ubd = add(&control, None, 1, 2)?;
        let server = Server::spawn(open_node(ubd.id())?, 2, GOOD);
        control.start(ubd.id(), std::process::id())?;
        // Some are never opened by us, some are in use when they go.
        if nr % 4 == 0 {
            read_direct(ubd.node(), 0, 4096)?;
        }
        if nr % 3 == 0 {
            control.stop(ubd.id())?;
        }
        delete(&control, ubd)?;
        server.quit()?;
    }
    sh("settle")?;
    let mut after = left()?;
    let _ = wait_for("objects to be freed", Duration::from_secs(20), || {
        after = left().unwrap_or_default();
        after == before
    });
    ensure!(after == before, "before: {before:?}, after: {after:?}");
    Ok(())
}
