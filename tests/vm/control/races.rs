// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once, and anything at all. What counts is that the kernel does not complain, that
//! every call returns, and that the driver works afterwards.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use fastrand::Rng;
use io_uring::squeue::Flags;
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::ublk;
use ubd_bpf::Kind;

use super::commands::with;
use super::server::{open_node, params, Server, GOOD, IO_BYTES};
use crate::support::raw::RawControl;
use crate::support::{sh, wait_for, Ubd};

/// How long the races run.
const SPAN: Duration = Duration::from_secs(5);

/// A device can still be made, used and deleted.
fn still_works() -> Result<()> {
    let ubd = Ubd::add(&["-t null -s 16M"])?;
    sh(format!(
        "dd if={} of=/dev/null bs=1M count=4 iflag=direct status=none",
        ubd.node()
    ))?;
    ubd.del()
}

/// ADD, DEL, STOP and questions of one number from several threads.
pub fn racing_commands() -> Result<()> {
    const ID: u32 = 60;
    let end = Instant::now() + SPAN;
    let (added, deleted) = (AtomicU32::new(0), AtomicU32::new(0));
    let count = |counter: &AtomicU32, done: bool| counter.fetch_add(done.into(), Ordering::Relaxed);
    let request = AddRequest {
        id: Some(ID),
        queues: 2,
        depth: 16,
        max_io_bytes: 65536,
        ..AddRequest::default()
    };
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        let mut race = |act: &'static str| {
            let (added, deleted) = (&added, &deleted);
            threads.push(scope.spawn(move || -> Result<()> {
                let control = Control::open()?;
                while Instant::now() < end {
                    match act {
                        "add" => count(added, control.add(&request).is_ok()),
                        "del" => count(deleted, control.del(ID).is_ok()),
                        "stop" => control.stop(ID).map_or(0, |()| 1),
                        "ask" => control.dev_info(ID).map_or(0, |_| 1),
                        "set" => control.set_params(ID, &params()).map_or(0, |()| 1),
                        "open" => open_node(ID).map_or(0, |_| 1),
                        _ => control.unbind(ID).map_or(0, |()| 1),
                    };
                }
                Ok(())
            }));
        };
        for act in [
            "add", "add", "del", "del", "stop", "ask", "set", "open", "unbind",
        ] {
            race(act);
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("joining"))
    })?;
    let control = Control::open()?;
    let last = u32::from(control.del(ID).is_ok());
    let (added, deleted) = (added.into_inner(), deleted.into_inner() + last);
    ensure!(
        added == deleted && added > 0,
        "added {added}, deleted {deleted}"
    );
    ensure!(control.dev_info(ID).is_err(), "the device is still there");
    still_works()
}

/// Whole lives, with servers, against STOP and DEL from outside at any moment.
pub fn racing_servers() -> Result<()> {
    const ID: u32 = 61;
    let over = AtomicBool::new(false);
    let control = Control::open()?;
    let mut started = 0;
    std::thread::scope(|scope| -> Result<()> {
        let killer = scope.spawn(|| -> Result<u32> {
            let mut raw = RawControl::open()?;
            let (mut rng, mut deleted) = (Rng::with_seed(9), 0);
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(rng.u64(..400)));
                let mut nothing = 0u64;
                if rng.bool() {
                    raw.run(
                        ublk::U_CMD_STOP_DEV,
                        &with(ID, &mut nothing),
                        Flags::empty(),
                    )?;
                } else {
                    let gone =
                        raw.run(ublk::U_CMD_DEL_DEV, &with(ID, &mut nothing), Flags::empty())?;
                    deleted += u32::from(gone == 0);
                }
            }
            Ok(deleted)
        });
        let start = Instant::now();
        while start.elapsed() < 2 * SPAN {
            let added = control.add(&AddRequest {
                id: Some(ID),
                queues: 1,
                depth: 4,
                max_io_bytes: IO_BYTES as u32,
                ..AddRequest::default()
            });
            match added {
                Ok(_) => {}
                // Deleted from outside, and not gone yet.
                Err(err) if err.errno() == Some(libc::EEXIST) || err.kind() == Kind::Exists => {
                    continue
                }
                Err(err) => return Err(err.into()),
            }
            let _ = control.set_params(ID, &params());
            if let Ok(node) = open_node(ID) {
                let server = Server::spawn(node, 4, GOOD);
                started += u32::from(control.start(ID, std::process::id()).is_ok());
                server.quit()?;
            }
            // By then it is deleted, or is now: DEL twice is no error of ours.
            let _ = control.del(ID);
        }
        over.store(true, Ordering::Relaxed);
        let deleted = killer.join().expect("joining")?;
        ensure!(
            deleted > 0 && started > 0,
            "{started} devices started, {deleted} deleted from outside"
        );
        Ok(())
    })?;
    let _ = control.del(ID);
    wait_for("the number to be free", Duration::from_secs(20), || {
        control.dev_info(ID).is_err()
    })?;
    sh("for again in 1 2 3 4 5 6; do udevadm settle --timeout=10 && exit; done; exit 1")
        .context("udev is stuck")?;
    still_works()
}
