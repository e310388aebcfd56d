// SPDX-License-Identifier: MIT OR Apache-2.0
//! ublk's commands with arguments that are too short, too long, nowhere, or nonsense.

use anyhow::{ensure, Result};
use io_uring::squeue::Flags;
use ubd_bpf::control::Control;
use ubd_bpf::uapi::{ublk, Plain};

use super::server::{self, add, delete, open_node, params, Server, GOOD};
use crate::support::raw::{ctrl_cmd, RawControl};
use crate::support::{sh, Ubd};

/// An address in the kernel's half, and one that nothing is mapped at.
const NOWHERE: [u64; 2] = [0xffff_8880_0000_0000, 0xdead_0000];

/// A ring whose commands are looked at one by one.
struct Raw(RawControl);

impl Raw {
    fn open() -> Result<Raw> {
        Ok(Raw(RawControl::open()?))
    }

    fn run(&mut self, op: u32, cmd: ublk::CtrlCmd) -> Result<i32> {
        self.0.run(op, &cmd, Flags::empty())
    }

    fn expect(&mut self, what: &str, errno: i32, op: u32, cmd: ublk::CtrlCmd) -> Result<()> {
        let result = self.run(op, cmd)?;
        ensure!(result == -errno, "{what}: {result} instead of {}", -errno);
        Ok(())
    }
}

/// A command for device `id` with `arg` as its buffer.
pub fn with<T>(id: u32, arg: &mut T) -> ublk::CtrlCmd {
    ublk::CtrlCmd {
        addr: std::ptr::from_mut(arg) as u64,
        len: size_of::<T>() as u16,
        ..ctrl_cmd(id)
    }
}

fn info(id: u32) -> ublk::DevInfo {
    ublk::DevInfo {
        nr_hw_queues: 1,
        queue_depth: 8,
        max_io_buf_bytes: 65536,
        dev_id: id,
        ..ublk::DevInfo::zeroed()
    }
}

pub fn add_checks() -> Result<()> {
    let mut raw = Raw::open()?;
    let any = u32::MAX;
    let cases: [(&str, i32, ublk::DevInfo); 10] = [
        (
            "no queue",
            libc::EINVAL,
            ublk::DevInfo {
                nr_hw_queues: 0,
                ..info(any)
            },
        ),
        (
            "too many queues",
            libc::EINVAL,
            ublk::DevInfo {
                nr_hw_queues: 4097,
                ..info(any)
            },
        ),
        (
            "no depth",
            libc::EINVAL,
            ublk::DevInfo {
                queue_depth: 0,
                ..info(any)
            },
        ),
        (
            "too deep",
            libc::EINVAL,
            ublk::DevInfo {
                queue_depth: 4097,
                ..info(any)
            },
        ),
        (
            "no buffer",
            libc::EINVAL,
            ublk::DevInfo {
                max_io_buf_bytes: 0,
                ..info(any)
            },
        ),
        (
            "less than a page",
            libc::EINVAL,
            ublk::DevInfo {
                max_io_buf_bytes: 4095,
                ..info(any)
            },
        ),
        (
            "more than 32 MiB",
            libc::EINVAL,
            ublk::DevInfo {
                max_io_buf_bytes: (32 << 20) + 4096,
                ..info(any)
            },
        ),
        ("a number beyond all", libc::EINVAL, info(1024)),
        (
            "a policy without recovery",
            libc::EINVAL,
            ublk::DevInfo {
                flags: ublk::F_USER_RECOVERY_REISSUE,
                ..info(any)
            },
        ),
        (
            "two policies",
            libc::EINVAL,
            ublk::DevInfo {
                flags: ublk::F_USER_RECOVERY
                    | ublk::F_USER_RECOVERY_REISSUE
                    | ublk::F_USER_RECOVERY_FAIL_IO,
                ..info(any)
            },
        ),
    ];
    for (what, errno, mut bad) in cases {
        raw.expect(what, errno, ublk::U_CMD_ADD_DEV, with(bad.dev_id, &mut bad))?;
    }
    let mut good = info(7);
    raw.expect(
        "two numbers",
        libc::EINVAL,
        ublk::U_CMD_ADD_DEV,
        with(8, &mut good),
    )?;
    let for_queue = ublk::CtrlCmd {
        queue_id: 0,
        ..with(7, &mut good)
    };
    raw.expect("for a queue", libc::EINVAL, ublk::U_CMD_ADD_DEV, for_queue)?;
    let short = ublk::CtrlCmd {
        len: 63,
        ..with(7, &mut good)
    };
    raw.expect("short", libc::EINVAL, ublk::U_CMD_ADD_DEV, short)?;
    raw.expect(
        "no argument",
        libc::EINVAL,
        ublk::U_CMD_ADD_DEV,
        ctrl_cmd(7),
    )?;

    raw.expect("a good one", 0, ublk::U_CMD_ADD_DEV, with(7, &mut good))?;
    let _seven = Ubd::adopt(7);
    raw.expect(
        "the number is taken",
        libc::EEXIST,
        ublk::U_CMD_ADD_DEV,
        with(7, &mut good),
    )?;
    // What is not supported is taken back, aloud; and root's devices are root's.
    let mut wishful = ublk::DevInfo {
        flags: !ublk::F_USER_RECOVERY_FAIL_IO,
        io_desc_size: 64,
        nr_hw_queues: 4096,
        ..info(any)
    };
    raw.expect("all flags", 0, ublk::U_CMD_ADD_DEV, with(any, &mut wishful))?;
    let _other = Ubd::adopt(wishful.dev_id);
    let offered = Control::open()?.ublk_features()?;
    let mut known = offered
        & !(ublk::F_USER_RECOVERY_FAIL_IO | ublk::F_UNPRIVILEGED_DEV | ublk::F_NEED_GET_DATA);
    if offered & ublk::F_BATCH_IO != 0 {
        known &= !ublk::F_PER_IO_DAEMON;
    }
    ensure!(wishful.flags == known, "the flags are {:#x}", wishful.flags);
    let cpus: u16 = sh("nproc --all")?.parse()?;
    ensure!(
        wishful.nr_hw_queues == cpus,
        "{} queues on {cpus} CPUs",
        wishful.nr_hw_queues
    );
    Ok(())
}

/// Every command with an argument, with every kind of bad argument.
pub fn buffers() -> Result<()> {
    let mut raw = Raw::open()?;
    let ubd = add(&Control::open()?, None, 1, 4)?;
    let mut big = [0u64; 1024];
    let commands = [
        ("GET_DEV_INFO", ublk::U_CMD_GET_DEV_INFO, 64),
        ("GET_PARAMS", ublk::U_CMD_GET_PARAMS, 112),
        ("SET_PARAMS", ublk::U_CMD_SET_PARAMS, 112),
        ("GET_QUEUE_AFFINITY", ublk::U_CMD_GET_QUEUE_AFFINITY, 128),
        ("GET_FEATURES", ublk::U_CMD_GET_FEATURES, 8),
    ];
    for (name, op, len) in commands {
        let cmd = ublk::CtrlCmd {
            queue_id: u16::MAX,
            ..with(ubd.id(), &mut big)
        };
        let short = ublk::CtrlCmd { len: 0, ..cmd };
        raw.expect(&format!("{name} of length 0"), libc::EINVAL, op, short)?;
        let null = ublk::CtrlCmd {
            addr: 0,
            len,
            ..cmd
        };
        raw.expect(&format!("{name} at 0"), libc::EINVAL, op, null)?;
        for addr in NOWHERE {
            let nowhere = ublk::CtrlCmd { addr, len, ..cmd };
            raw.expect(&format!("{name} at {addr:#x}"), libc::EFAULT, op, nowhere)?;
        }
    }
    let short = ublk::CtrlCmd {
        len: 63,
        ..with(ubd.id(), &mut big)
    };
    raw.expect(
        "GET_DEV_INFO, short",
        libc::EINVAL,
        ublk::U_CMD_GET_DEV_INFO,
        short,
    )?;
    for len in [7, 9, u16::MAX] {
        let cmd = ublk::CtrlCmd {
            len,
            ..with(ubd.id(), &mut big)
        };
        raw.expect(
            "GET_FEATURES of another length",
            libc::EINVAL,
            ublk::U_CMD_GET_FEATURES,
            cmd,
        )?;
    }
    let cmd = ublk::CtrlCmd {
        data: 1,
        ..with(ubd.id(), &mut big)
    };
    raw.expect(
        "the affinity of no queue",
        libc::EINVAL,
        ublk::U_CMD_GET_QUEUE_AFFINITY,
        cmd,
    )?;
    let odd = ublk::CtrlCmd {
        len: 9,
        ..with(ubd.id(), &mut big)
    };
    raw.expect(
        "an affinity of 9 bytes",
        libc::EINVAL,
        ublk::U_CMD_GET_QUEUE_AFFINITY,
        odd,
    )?;

    // Longer than it has to be is fine, and so is a part of the parameters.
    big = [u64::MAX; 1024];
    let all = ublk::CtrlCmd {
        len: 8192,
        ..with(ubd.id(), &mut big)
    };
    raw.expect("GET_DEV_INFO, long", 0, ublk::U_CMD_GET_DEV_INFO, all)?;
    ensure!(
        big[8] == u64::MAX,
        "GET_DEV_INFO wrote behind its structure"
    );
    big = [u64::MAX; 1024];
    big[0] = 40; // len of struct ublk_params: header and basic
    raw.expect(
        "GET_PARAMS, the start",
        0,
        ublk::U_CMD_GET_PARAMS,
        with(ubd.id(), &mut big),
    )?;
    ensure!(
        big[5] == u64::MAX && big[3] == server::SECTORS,
        "GET_PARAMS of 40 bytes gave {:x?}",
        &big[..8]
    );
    Ok(())
}

pub fn segments(
    params: &mut ublk::Params,
    seg_boundary_mask: u64,
    max_segment_size: u32,
    max_segments: u16,
) {
    params.types |= ublk::PARAM_TYPE_SEGMENT;
    params.seg = ublk::ParamSegment {
        seg_boundary_mask,
        max_segment_size,
        max_segments,
        pad: 0,
    };
}

pub fn bad_params() -> Result<()> {
    let mut raw = Raw::open()?;
    let control = Control::open()?;
    let ubd = add(&control, None, 1, 4)?;
    type Spoil = fn(&mut ublk::Params);
    let cases: [(&str, Spoil); 18] = [
        ("no basic", |p| p.types = 0),
        ("devt", |p| p.types |= ublk::PARAM_TYPE_DEVT),
        ("blocks of 256", |p| p.basic.logical_bs_shift = 8),
        ("blocks beyond a page", |p| {
            p.basic.logical_bs_shift = 13;
            p.basic.physical_bs_shift = 13;
        }),
        ("logical above physical", |p| p.basic.physical_bs_shift = 8),
        ("shift of 255", |p| p.basic.physical_bs_shift = 255),
        ("chunks that are no blocks", |p| {
            p.basic.logical_bs_shift = 12;
            p.basic.chunk_sectors = 1;
        }),
        ("no sectors at once", |p| p.basic.max_sectors = 0),
        ("more than the buffer", |p| {
            p.basic.max_sectors = (server::IO_BYTES >> 9) as u32 + 1
        }),
        ("2^64 sectors", |p| p.basic.dev_sectors = u64::MAX),
        ("2^55 sectors", |p| p.basic.dev_sectors = 1 << 55),
        ("discard without granularity", |p| {
            p.types |= ublk::PARAM_TYPE_DISCARD;
            p.discard.max_discard_sectors = 8;
            p.discard.max_discard_segments = 1;
        }),
        ("two segments", |p| {
            p.types |= ublk::PARAM_TYPE_DISCARD;
            p.discard.discard_granularity = 4096;
            p.discard.max_discard_sectors = 8;
            p.discard.max_discard_segments = 2;
        }),
        ("alignment to 3 bytes", |p| p.align_memory(3)),
        ("alignment beyond a page", |p| p.align_memory(8192)),
        ("segments of 512 bytes", |p| segments(p, 0xffff, 512, 4)),
        ("segments within 512 bytes", |p| segments(p, 511, 4096, 4)),
        ("no segments", |p| segments(p, 0xffff, 4096, 0)),
    ];
    for (what, spoil) in cases {
        let mut bad = params();
        spoil(&mut bad);
        raw.expect(
            what,
            libc::EINVAL,
            ublk::U_CMD_SET_PARAMS,
            with(ubd.id(), &mut bad),
        )?;
    }
    ensure!(
        control.params(ubd.id())?.basic.dev_sectors == server::SECTORS,
        "a refused parameter was kept"
    );
    // As ublk takes it: no discards, hence no segments.
    let mut none = params();
    none.types |= ublk::PARAM_TYPE_DISCARD;
    none.discard.discard_granularity = 4096;
    raw.expect(
        "discard, but none",
        0,
        ublk::U_CMD_SET_PARAMS,
        with(ubd.id(), &mut none),
    )?;

    let server = Server::spawn(open_node(ubd.id())?, 4, GOOD);
    control.start(ubd.id(), std::process::id())?;
    let mut late = params();
    raw.expect(
        "parameters of a live device",
        libc::EACCES,
        ublk::U_CMD_SET_PARAMS,
        with(ubd.id(), &mut late),
    )?;
    let devt = control.params(ubd.id())?.devt;
    let told = format!("{}:{}", devt.disk_major, devt.disk_minor);
    ensure!(ubd.attr("dev")? == told, "GET_PARAMS says {told}");
    delete(&control, ubd)?;
    server.quit()?;
    Ok(())
}

pub fn unknown() -> Result<()> {
    let mut raw = Raw::open()?;
    let ubd = add(&Control::open()?, None, 1, 4)?;
    // Numbers without the encoding, recovery, zones, batches, garbage.
    let get_info = ublk::U_CMD_GET_DEV_INFO;
    for op in [
        0,
        2,
        4,
        5,
        get_info ^ 0x20,
        get_info ^ 0x8000_0000,
        ublk::U_CMD_GET_DEV_INFO | 0xff,
        u32::MAX,
    ] {
        raw.expect(
            &format!("command {op:#x}"),
            libc::EOPNOTSUPP,
            op,
            ctrl_cmd(ubd.id()),
        )?;
    }
    let mut info = info(0);
    for id in [ubd.id() + 1, 1023, 1024, i32::MAX as u32, 1 << 31, u32::MAX] {
        for op in [
            get_info,
            ublk::U_CMD_START_DEV,
            ublk::U_CMD_STOP_DEV,
            ublk::U_CMD_DEL_DEV,
        ] {
            raw.expect(
                &format!("device {id}"),
                libc::ENODEV,
                op,
                with(id, &mut info),
            )?;
        }
    }
    // A process that is not: START must not wait for a server first.
    for pid in [0, u64::MAX, 1 << 31] {
        let cmd = ublk::CtrlCmd {
            data: pid,
            ..ctrl_cmd(ubd.id())
        };
        raw.expect(
            "START without a process",
            libc::EINVAL,
            ublk::U_CMD_START_DEV,
            cmd,
        )?;
    }
    let asynchronous = raw
        .0
        .run(get_info, &with(ubd.id(), &mut info), Flags::ASYNC)?;
    ensure!(
        asynchronous == 0 && info.dev_id == ubd.id(),
        "GET_DEV_INFO with IOSQE_ASYNC: {asynchronous}"
    );
    Ok(())
}
