// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control commands.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use ubd_bpf::control::{AddRequest, Control};
use ubd_bpf::uapi::{ubd, ublk, Plain};

use super::{here, next, Counter, Injection, Outcome, Ring, Seen};
use crate::control::server::{add, delete, open_node, params, Server, GOOD, IO_BYTES};
use crate::support::io::read_direct;
use crate::support::raw::{ctrl_cmd, RawControl};
use crate::support::{sh, wait_for, Files, Prog, RamDisk, Ubd};

/// Everything of the driver that has a name.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for dir in ["/sys/class/ubd-char", "/sys/block", "/dev"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("ubd") {
                names.insert(format!("{dir}/{name}"));
            }
        }
    }
    names
}

/// ADD: no device, or a whole one.
pub fn add_device() -> Result<()> {
    let _injection = Injection::new()?;
    let control = Control::open()?;
    let mut ring = Ring::open()?;
    let mut seen = Seen::default();
    let before = names();
    let mut n = 1;
    loop {
        let mut info = ublk::DevInfo {
            nr_hw_queues: 2,
            queue_depth: 16,
            max_io_buf_bytes: IO_BYTES as u32,
            dev_id: 40,
            flags: ublk::F_URING_CMD_COMP_IN_TASK | ublk::F_CMD_IOCTL_ENCODE,
            ..ublk::DevInfo::zeroed()
        };
        let cmd = ublk::CtrlCmd {
            len: size_of_val(&info) as u16,
            addr: (&raw mut info) as u64,
            ..ctrl_cmd(40)
        };
        let outcome = ring.run(n, ublk::U_CMD_ADD_DEV, &cmd)?;
        let more = seen.note(n, &outcome)?;
        if outcome.result < 0 {
            // devtmpfs is told a moment later.
            wait_for(
                "nothing to be left",
                std::time::Duration::from_secs(5),
                || names() == before,
            )
            .with_context(|| format!("allocation {n}: {:?}", names()))?;
        } else {
            control.set_params(40, &params())?;
            control.del(40)?;
        }
        if !more {
            break;
        }
        n = next(n);
    }
    seen.print("ADD");
    // The number is free.
    let device = add(&control, Some(40), 1, 8)?;
    delete(&control, device)
}

/// START: no disk, and another START may come; or the disk.
pub fn start_device() -> Result<()> {
    let _injection = Injection::new()?;
    let control = Control::open()?;
    let mut ring = Ring::open()?;
    let mut seen = Seen {
        may_be_nameless: true,
        ..Seen::default()
    };
    let mut n = 1;
    let mut more = true;
    while more {
        let device = add(&control, None, 1, 8)?;
        let id = device.id();
        let server = Server::spawn(open_node(id)?, 8, GOOD);
        let cmd = ublk::CtrlCmd {
            data: std::process::id().into(),
            ..ctrl_cmd(id)
        };
        let disk = format!("/sys/block/ubdb{id}");
        while more {
            let outcome = ring.run(n, ublk::U_CMD_START_DEV, &cmd)?;
            more = seen.note(n, &outcome)?;
            n = next(n);
            if outcome.result == 0 {
                ensure!(Path::new(&disk).exists(), "started, and no disk");
                break;
            }
            ensure!(
                !Path::new(&disk).exists() && !Path::new(&format!("/sys/block/ubdh{id}")).exists(),
                "allocation {n}: START has failed and left a disk"
            );
        }
        if !more {
            read_direct(device.node(), 0, 4096)?;
        }
        delete(&control, device)?;
        server.quit()?;
    }
    seen.print("START");
    let nameless = seen.results.get(&-libc::EINVAL).unwrap_or(&0);
    ensure!(*nameless <= 2, "there are two disks, each with one name");
    Ok(())
}

/// STOP and DEL: gone, or still there and to be asked again.
pub fn stop_and_delete() -> Result<()> {
    let _injection = Injection::new()?;
    let control = Control::open()?;
    let mut ring = Ring::open()?;
    for (name, op) in [("STOP", ublk::U_CMD_STOP_DEV), ("DEL", ublk::U_CMD_DEL_DEV)] {
        let before = names();
        let mut seen = Seen::default();
        let mut n = 1;
        loop {
            let device = add(&control, None, 1, 8)?;
            let id = device.id();
            let server = Server::spawn(open_node(id)?, 8, GOOD);
            control.start(id, std::process::id())?;
            let outcome = ring.run(n, op, &ctrl_cmd(id))?;
            let more = seen.note(n, &outcome)?;
            ensure!(
                outcome.result < 0 || !Path::new(&format!("/sys/block/ubdb{id}")).exists(),
                "{name} has left the disk"
            );
            if outcome.result < 0 || op == ublk::U_CMD_STOP_DEV {
                delete(&control, device)?;
            } else {
                std::mem::forget(device);
            }
            server.quit()?;
            wait_for(
                "nothing to be left",
                std::time::Duration::from_secs(5),
                || names() == before,
            )?;
            if !more {
                break;
            }
            n = next(n);
        }
        seen.print(name);
    }
    Ok(())
}

/// Commands that ask, set and resize.
pub fn others() -> Result<()> {
    let _injection = Injection::new()?;
    let control = Control::open()?;
    let mut ring = Ring::open()?;
    let info = control.add(&AddRequest {
        queues: 1,
        depth: 8,
        max_io_bytes: IO_BYTES as u32,
        flags: ublk::F_UPDATE_SIZE | ublk::F_USER_RECOVERY | ublk::F_QUIESCE,
        ..AddRequest::default()
    })?;
    let device = Ubd::adopt(info.dev_id);
    let id = device.id();
    let mut area = [0u64; 256];
    let with = |area: &mut [u64], len: usize| ublk::CtrlCmd {
        addr: area.as_mut_ptr() as u64,
        len: len as u16,
        ..ctrl_cmd(id)
    };
    let all = |ring: &mut Ring, name: &str, op: u32, cmd: &ublk::CtrlCmd| -> Result<()> {
        let mut seen = Seen::default();
        let mut n = 1;
        loop {
            let outcome = ring.run(n, op, cmd)?;
            if !seen.note(n, &outcome).with_context(|| name.to_owned())? {
                break;
            }
            n = next(n);
        }
        seen.print(name);
        Ok(())
    };
    let bytes = params().as_bytes().to_vec();
    // SAFETY: the area is larger, and not read meanwhile.
    unsafe {
        area.as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
    let cmd = with(&mut area, bytes.len());
    all(&mut ring, "SET_PARAMS", ublk::U_CMD_SET_PARAMS, &cmd)?;
    all(&mut ring, "GET_PARAMS", ublk::U_CMD_GET_PARAMS, &cmd)?;
    let cmd = with(&mut area, size_of::<ublk::DevInfo>());
    all(&mut ring, "GET_DEV_INFO", ublk::U_CMD_GET_DEV_INFO, &cmd)?;
    let cmd = with(&mut area, 1024);
    all(
        &mut ring,
        "GET_QUEUE_AFFINITY",
        ublk::U_CMD_GET_QUEUE_AFFINITY,
        &cmd,
    )?;

    let server = Server::spawn(open_node(id)?, 8, GOOD);
    control.start(id, std::process::id())?;
    let cmd = ublk::CtrlCmd {
        data: 24 << 11,
        ..ctrl_cmd(id)
    };
    all(&mut ring, "UPDATE_SIZE", ublk::U_CMD_UPDATE_SIZE, &cmd)?;
    ensure!(
        device.attr("size")? == (24 << 11).to_string(),
        "not resized"
    );

    // The server goes, and another one comes; each command is asked until it has succeeded.
    server.quit()?;
    let mut seen = Seen::default();
    let mut n = 1;
    wait_for(
        "the server to be gone",
        std::time::Duration::from_secs(10),
        || {
            control
                .dev_info(id)
                .is_ok_and(|info| info.state != ublk::S_DEV_LIVE)
        },
    )?;
    loop {
        let outcome = ring.run(n, ublk::U_CMD_START_USER_RECOVERY, &ctrl_cmd(id))?;
        seen.note(n, &outcome)?;
        if outcome.result == 0 {
            break;
        }
        n = next(n);
    }
    seen.print("START_USER_RECOVERY");
    let server = Server::spawn(open_node(id)?, 8, GOOD);
    let cmd = ublk::CtrlCmd {
        data: std::process::id().into(),
        ..ctrl_cmd(id)
    };
    let mut seen = Seen::default();
    let mut n = 1;
    loop {
        let outcome = ring.run(n, ublk::U_CMD_END_USER_RECOVERY, &cmd)?;
        seen.note(n, &outcome)?;
        if outcome.result == 0 {
            break;
        }
        n = next(n);
    }
    seen.print("END_USER_RECOVERY");
    read_direct(device.node(), 0, 4096)?;
    delete(&control, device)?;
    server.quit().map(drop)
}

/// ubd's own commands on a device that runs.
pub fn slots_and_programs() -> Result<()> {
    let _injection = Injection::new()?;
    let disk = RamDisk::new()?;
    let files = Files::ext4()?;
    let path = files.file("slot", 4 << 20)?;
    let device = Ubd::add(&["-t null -s 4M"])?;
    let id = device.id();
    let prog = Prog::load("linear_tracked", &[])?;
    let raw = RawControl::open()?;
    let counter = Counter::own()?;
    let calls = |name: &str, undo: &dyn Fn() -> Result<()>, call: &dyn Fn() -> i32| -> Result<()> {
        let mut seen = Seen::default();
        let mut n = 1;
        loop {
            let before = slots(&raw, id)?;
            let outcome: Outcome = here(&counter, n, call)?;
            let more = seen.note(n, &outcome).with_context(|| name.to_owned())?;
            if outcome.result == 0 {
                undo().with_context(|| format!("to undo {name}"))?;
            } else {
                ensure!(
                    slots(&raw, id)? == before,
                    "{name}, allocation {n}: it has failed and changed the slots"
                );
            }
            if !more {
                break;
            }
            n = next(n);
        }
        seen.print(name);
        Ok(())
    };
    let ioctl = |cmd: u32, bytes: &[u8]| {
        let mut area = [0u64; 64];
        // SAFETY: no command of ours is as long as the area.
        unsafe {
            area.as_mut_ptr()
                .cast::<u8>()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        raw.ioctl(cmd, area.as_mut_ptr() as u64)
    };
    let must = |cmd: u32, bytes: &[u8]| match ioctl(cmd, bytes) {
        0 => Ok(()),
        err => bail!("it gave {err}"),
    };
    let unregister = || {
        let unreg = ubd::SlotUnreg {
            dev_id: id,
            slot: 5,
        };
        must(ubd::CMD_UNREG_SLOT, unreg.as_bytes())
    };
    for (name, path, flags) in [
        ("REG_SLOT of a disk", Path::new(&disk.node()), 0),
        ("REG_SLOT of a file", path.as_path(), 0),
        (
            "REG_SLOT of a direct file",
            path.as_path(),
            ubd::SLOT_DIRECT,
        ),
    ] {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let reg = ubd::SlotReg {
            dev_id: id,
            fd: file.as_raw_fd(),
            flags: flags | ubd::SLOT_WRITE,
            slot: 5,
            offset: 0,
            nr_sectors: 0,
        };
        calls(name, &unregister, &|| {
            ioctl(ubd::CMD_REG_SLOT, reg.as_bytes())
        })?;
        if name.ends_with("disk") {
            must(ubd::CMD_REG_SLOT, reg.as_bytes())?;
            let resize = ubd::SlotResize {
                dev_id: id,
                slot: 5,
                nr_sectors: 1024,
            };
            calls("RESIZE_SLOT", &|| Ok(()), &|| {
                ioctl(ubd::CMD_RESIZE_SLOT, resize.as_bytes())
            })?;
            let again = || must(ubd::CMD_REG_SLOT, reg.as_bytes());
            let unreg = ubd::SlotUnreg {
                dev_id: id,
                slot: 5,
            };
            calls("UNREG_SLOT", &again, &|| {
                ioctl(ubd::CMD_UNREG_SLOT, unreg.as_bytes())
            })?;
            unregister()?;
        }
    }
    let mut bind = ubd::Bind {
        dev_id: id,
        flags: 0,
        cookie: 0,
        name: [0; 16],
    };
    for (to, from) in bind.name.iter_mut().zip(prog.name().bytes()) {
        *to = from as _;
    }
    let unbind = ubd::Unbind {
        dev_id: id,
        reserved: 0,
    };
    let unbound = || must(ubd::CMD_UNBIND, unbind.as_bytes());
    calls("BIND", &unbound, &|| ioctl(ubd::CMD_BIND, bind.as_bytes()))?;
    let bound = || must(ubd::CMD_BIND, bind.as_bytes());
    bound()?;
    calls("BIND over another", &|| Ok(()), &|| {
        ioctl(ubd::CMD_BIND, bind.as_bytes())
    })?;
    let fence = ubd::Fence {
        dev_id: id,
        reserved: 0,
    };
    calls("FENCE", &|| Ok(()), &|| {
        ioctl(ubd::CMD_FENCE, fence.as_bytes())
    })?;
    calls("UNBIND", &bound, &|| {
        ioctl(ubd::CMD_UNBIND, unbind.as_bytes())
    })?;
    sh(format!(
        "dd if={} of=/dev/null bs=64k iflag=direct status=none",
        device.node()
    ))?;
    device.del()?;
    drop(prog);
    Ok(())
}

/// Those that are registered.
fn slots(raw: &RawControl, id: u32) -> Result<u32> {
    let mut list = ubd::SlotList {
        dev_id: id,
        nr: 0,
        addr: 0,
    };
    let result = raw.ioctl(ubd::CMD_LIST_SLOTS, (&raw mut list) as u64);
    ensure!(result == 0, "LIST_SLOTS gave {result}");
    Ok(list.nr)
}
