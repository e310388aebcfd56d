// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Rust side of the kernel's interfaces against the C headers.
//!
//! A C file is made of `_Static_assert`s with the sizes, offsets and numbers
//! that Rust has, and the C compiler checks it: once against `kmod/ubd_cmd.h`,
//! once against `linux/ublk_cmd.h`. `UBD_UAPI_INCLUDE` names another directory
//! of kernel headers. A header older than Linux 6.8 lacks some of ublk; what
//! it lacks is left out by `#ifdef`, and the test prints what that was.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails, panics"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;
use ubd_bpf::uapi::{ubd, ublk};

/// Collects assertions.
#[derive(Default)]
struct C(String);

impl C {
    fn equal(&mut self, what: &str, value: i128) {
        writeln!(
            self.0,
            "_Static_assert({what} == {value}LL, \"{what} is not {value}\");"
        )
        .unwrap();
    }

    /// An assertion on a macro that an old header may lack.
    fn equal_if_defined(&mut self, name: &str, value: i128) {
        writeln!(self.0, "#ifdef {name}").unwrap();
        self.equal(name, value);
        writeln!(
            self.0,
            "#else\n#pragma message \"this header lacks {name}\"\n#endif"
        )
        .unwrap();
    }

    /// Compiles; gives what the compiler says, and whether it agrees.
    fn check(&self, headers: &str) -> (bool, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut file = tempfile::Builder::new().suffix(".c").tempfile().unwrap();
        write!(file, "#include <stddef.h>\n{headers}\n{}", self.0).unwrap();
        let mut cc = Command::new(std::env::var("CC").unwrap_or("cc".into()));
        cc.args(["-std=gnu11", "-fsyntax-only"])
            .arg("-I")
            .arg(root.join("bpf"))
            .arg("-I")
            .arg(root);
        if let Ok(dir) = std::env::var("UBD_UAPI_INCLUDE") {
            cc.arg("-isystem").arg(dir);
        }
        let out = cc
            .arg(file.path())
            .output()
            .expect("a C compiler is needed");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    }

    fn must_hold(&self, headers: &str) {
        let (ok, said) = self.check(headers);
        assert!(ok, "{said}");
        for line in said
            .lines()
            .filter(|line| line.contains("this header lacks"))
        {
            println!("not checked: {line}");
        }
    }
}

/// Asserts the size of a structure and the offset and size of each member.
macro_rules! layout {
    ($c:ident, $ctype:literal, $rust:path: $($member:ident)*) => {
        $c.equal(concat!("sizeof(", $ctype, ")"), size_of::<$rust>() as i128);
        $(
            let name = stringify!($member);
            $c.equal(&format!("offsetof({}, {name})", $ctype), offset_of!($rust, $member) as i128);
            let size = size_of_member(|s: &$rust| size_of_val(&s.$member));
            $c.equal(&format!("sizeof((({} *)0)->{name})", $ctype), size);
        )*
    };
}

fn size_of_member<T>(size: impl Fn(&T) -> usize) -> i128 {
    let value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: the structures of the interface are integers, for which zero is a value.
    size(unsafe { value.assume_init_ref() }) as i128
}

macro_rules! numbers {
    ($c:ident, $module:ident, $prefix:literal: $($name:ident)*) => {
        $($c.equal(concat!($prefix, stringify!($name)), $module::$name as i128);)*
    };
}

fn ubd_assertions() -> C {
    let mut c = C::default();
    numbers!(c, ubd, "UBD_":
        OPS_NAME_LEN MAX_SLOTS REASON_LEN MAP_DECLINE MAP_BACKING MAP_ZERO
        OP_READ OP_WRITE OP_FLUSH OP_DISCARD OP_WRITE_ZEROES
        IO_META IO_FUA IO_NOUNMAP IO_SWAP OPS_WANT_DISCARD OPS_DISCARD_WRITES OPS_TRACKED
        F_BPF_FASTPATH F_BLOCK_SLOTS F_FILE_SLOTS F_TEST_RUN F_FENCE F_FILE_INLINE
        F_FORWARD F_POLICY F_RESIZE_SLOT POLICY_STOP_MAPPED
        CLUSTER_VALID CLUSTER_WRITABLE CLUSTER_ZERO CLUSTER_LOCKED
        CLUSTER_SLOT_SHIFT CLUSTER_SLOT_BITS CLUSTER_GEN_SHIFT CLUSTER_GEN_BITS
        CLUSTER_PLACE_SHIFT CLUSTER_PLACE_BITS CLUSTER_MAX_SHIFT
        SLOT_WRITE SLOT_DIRECT SLOT_FILE SLOT_DRAINING SLOT_DIRTY SLOT_ANY
        PROG_LIVE PROG_EJECTED
        CMD_FEATURES CMD_REG_SLOT CMD_UNREG_SLOT CMD_LIST_SLOTS
        CMD_BIND CMD_UNBIND CMD_LIST_PROGS CMD_TEST_RUN CMD_FENCE CMD_SET_POLICY CMD_RESIZE_SLOT);
    layout!(c, "struct ubd_features", ubd::Features:
        features ublk_features max_slots max_queue_depth version);
    layout!(c, "struct ubd_bpf_io", ubd::BpfIo:
        sector cookie nr_sectors dev_id op flags nr_slots slot map_sector map_sectors reserved);
    layout!(c, "struct ubd_slot_reg", ubd::SlotReg: dev_id fd flags slot offset nr_sectors);
    layout!(c, "struct ubd_slot_unreg", ubd::SlotUnreg: dev_id slot);
    layout!(c, "struct ubd_slot_info", ubd::SlotInfo: slot flags offset nr_sectors dev ino);
    layout!(c, "struct ubd_slot_list", ubd::SlotList: dev_id nr addr);
    layout!(c, "struct ubd_bind", ubd::Bind: dev_id flags cookie name);
    layout!(c, "struct ubd_unbind", ubd::Unbind: dev_id reserved);
    layout!(c, "struct ubd_prog_info", ubd::ProgInfo:
        name flags state nr_bound reserved bad_verdicts reason);
    layout!(c, "struct ubd_prog_list", ubd::ProgList: nr reserved addr);
    layout!(c, "struct ubd_test_run", ubd::TestRun:
        name io slot_sectors block_size verdict bad reserved reason);
    layout!(c, "struct ubd_fence", ubd::Fence: dev_id reserved);
    layout!(c, "struct ubd_forward", ubd::Forward: q_id tag slot sector);
    layout!(c, "struct ubd_install", ubd::Install: addr expect value);
    c.equal("UBD_U_IO_FORWARD", ubd::U_IO_FORWARD.into());
    layout!(c, "struct ubd_policy", ubd::Policy: dev_id flags);
    layout!(c, "struct ubd_slot_resize", ubd::SlotResize: dev_id slot nr_sectors);
    c
}

fn ublk_assertions() -> C {
    let mut c = C::default();
    layout!(c, "struct ublksrv_ctrl_cmd", ublk::CtrlCmd: dev_id queue_id len addr);
    layout!(c, "struct ublksrv_ctrl_dev_info", ublk::DevInfo:
        nr_hw_queues queue_depth state max_io_buf_bytes dev_id ublksrv_pid flags ublksrv_flags);
    layout!(c, "struct ublksrv_io_desc", ublk::IoDesc: op_flags nr_sectors start_sector addr);
    layout!(c, "struct ublksrv_io_cmd", ublk::IoCmd: q_id tag result addr);
    layout!(c, "struct ublk_param_basic", ublk::ParamBasic:
        attrs logical_bs_shift physical_bs_shift io_opt_shift io_min_shift max_sectors
        chunk_sectors dev_sectors virt_boundary_mask);
    layout!(c, "struct ublk_param_discard", ublk::ParamDiscard:
        discard_alignment discard_granularity max_discard_sectors max_write_zeroes_sectors
        max_discard_segments reserved0);
    numbers!(c, ublk, "UBLK_": MAX_QUEUE_DEPTH IO_RES_OK
        IO_OP_READ IO_OP_WRITE IO_OP_FLUSH IO_OP_DISCARD IO_OP_WRITE_ZEROES
        IO_F_FUA IO_F_NOUNMAP
        ATTR_READ_ONLY ATTR_ROTATIONAL ATTR_VOLATILE_CACHE
        PARAM_TYPE_BASIC PARAM_TYPE_DISCARD
        F_SUPPORT_ZERO_COPY F_URING_CMD_COMP_IN_TASK F_NEED_GET_DATA
        F_USER_RECOVERY F_USER_RECOVERY_REISSUE
        S_DEV_DEAD S_DEV_LIVE);
    c.equal("UBLKSRV_CMD_BUF_OFFSET", ublk::CMD_BUF_OFFSET.into());
    c.equal("UBLKSRV_IO_BUF_OFFSET", ublk::IO_BUF_OFFSET.into());
    macro_rules! newer {
        ($($name:ident)*) => {
            $(c.equal_if_defined(concat!("UBLK_", stringify!($name)), ublk::$name as i128);)*
        };
    }
    newer!(F_UNPRIVILEGED_DEV F_CMD_IOCTL_ENCODE F_USER_COPY F_ZONED F_USER_RECOVERY_FAIL_IO
        F_UPDATE_SIZE F_AUTO_BUF_REG F_QUIESCE F_PER_IO_DAEMON F_BUF_REG_OFF_DAEMON F_BATCH_IO
        F_INTEGRITY F_SAFE_STOP_DEV F_NO_AUTO_PART_SCAN F_SHMEM_ZC F_IO_DESC_SIZE
        AUTO_BUF_REG_FALLBACK IO_F_NEED_REG_BUF IO_BUF_BITS TAG_BITS ATTR_FUA PARAM_TYPE_DEVT
        PARAM_TYPE_DMA_ALIGN PARAM_TYPE_SEGMENT MAX_NR_QUEUES S_DEV_QUIESCED S_DEV_FAIL_IO
        U_CMD_GET_QUEUE_AFFINITY U_CMD_GET_DEV_INFO U_CMD_ADD_DEV U_CMD_DEL_DEV U_CMD_START_DEV
        U_CMD_STOP_DEV U_CMD_SET_PARAMS U_CMD_GET_PARAMS U_CMD_GET_FEATURES U_CMD_DEL_DEV_ASYNC
        U_CMD_START_USER_RECOVERY U_CMD_END_USER_RECOVERY U_CMD_GET_DEV_INFO2 U_CMD_UPDATE_SIZE
        U_CMD_QUIESCE_DEV U_CMD_TRY_STOP_DEV
        U_IO_FETCH_REQ U_IO_COMMIT_AND_FETCH_REQ U_IO_REGISTER_IO_BUF U_IO_UNREGISTER_IO_BUF);
    // The path of an unprivileged device came with UBLK_F_CMD_IOCTL_ENCODE,
    // zones and with them the full `ublk_params` with UBLK_F_ZONED.
    writeln!(c.0, "#ifdef UBLK_F_CMD_IOCTL_ENCODE").unwrap();
    layout!(c, "struct ublksrv_ctrl_cmd", ublk::CtrlCmd: data dev_path_len pad reserved);
    layout!(c, "struct ublksrv_ctrl_dev_info", ublk::DevInfo: owner_uid owner_gid);
    layout!(c, "struct ublk_param_devt", ublk::ParamDevt:
        char_major char_minor disk_major disk_minor);
    writeln!(c.0, "#endif\n#ifdef UBLK_F_ZONED").unwrap();
    layout!(c, "struct ublk_param_zoned", ublk::ParamZoned:
        max_open_zones max_active_zones max_zone_append_sectors reserved);
    for (member, at) in [
        ("len", offset_of!(ublk::Params, len)),
        ("types", offset_of!(ublk::Params, types)),
        ("basic", offset_of!(ublk::Params, basic)),
        ("discard", offset_of!(ublk::Params, discard)),
        ("devt", offset_of!(ublk::Params, devt)),
        ("zoned", offset_of!(ublk::Params, zoned)),
    ] {
        c.equal(
            &format!("offsetof(struct ublk_params, {member})"),
            at as i128,
        );
    }
    writeln!(c.0, "#endif\n#ifdef UBLK_PARAM_TYPE_SEGMENT").unwrap();
    layout!(c, "struct ublk_param_dma_align", ublk::ParamDmaAlign: alignment pad);
    layout!(c, "struct ublk_param_segment", ublk::ParamSegment:
        seg_boundary_mask max_segment_size max_segments pad);
    for (member, at) in [
        ("dma", offset_of!(ublk::Params, dma)),
        ("seg", offset_of!(ublk::Params, seg)),
    ] {
        c.equal(
            &format!("offsetof(struct ublk_params, {member})"),
            at as i128,
        );
    }
    writeln!(c.0, "#endif").unwrap();
    c
}

const UBD: &str = "#include \"kmod/ubd_cmd.h\"\n#include \"ubd_cluster.h\"";
const UBLK: &str = "#include <sys/ioctl.h>\n#include <linux/ublk_cmd.h>";

#[test]
fn ubds_own_commands_are_those_of_the_header() {
    ubd_assertions().must_hold(UBD);
}

#[test]
fn ublks_protocol_is_that_of_the_header() {
    ublk_assertions().must_hold(UBLK);
}

/// The tests above can fail: one wrong number is found.
#[test]
fn a_wrong_number_is_found() {
    let mut c = ubd_assertions();
    c.equal("sizeof(struct ubd_bind)", 31);
    assert!(!c.check(UBD).0);
}
