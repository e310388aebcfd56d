// SPDX-License-Identifier: MIT OR Apache-2.0
//! ublk's protocol, from `linux/ublk_cmd.h`.

use super::{boundary, ioc, Plain, IOC_READ, IOC_WRITE};

const fn ctrl(dir: u32, nr: u8) -> u32 {
    ioc(dir, b'u', nr, size_of::<CtrlCmd>())
}

const fn io(nr: u8) -> u32 {
    ioc(IOC_READ | IOC_WRITE, b'u', nr, size_of::<IoCmd>())
}

// Control commands, on the control node.
pub const U_CMD_GET_QUEUE_AFFINITY: u32 = ctrl(IOC_READ, 0x01);
pub const U_CMD_GET_DEV_INFO: u32 = ctrl(IOC_READ, 0x02);
pub const U_CMD_ADD_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x04);
pub const U_CMD_DEL_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x05);
pub const U_CMD_START_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x06);
pub const U_CMD_STOP_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x07);
pub const U_CMD_SET_PARAMS: u32 = ctrl(IOC_READ | IOC_WRITE, 0x08);
pub const U_CMD_GET_PARAMS: u32 = ctrl(IOC_READ, 0x09);
pub const U_CMD_START_USER_RECOVERY: u32 = ctrl(IOC_READ | IOC_WRITE, 0x10);
pub const U_CMD_END_USER_RECOVERY: u32 = ctrl(IOC_READ | IOC_WRITE, 0x11);
pub const U_CMD_GET_DEV_INFO2: u32 = ctrl(IOC_READ, 0x12);
pub const U_CMD_GET_FEATURES: u32 = ctrl(IOC_READ, 0x13);
pub const U_CMD_DEL_DEV_ASYNC: u32 = ctrl(IOC_READ, 0x14);
pub const U_CMD_UPDATE_SIZE: u32 = ctrl(IOC_READ | IOC_WRITE, 0x15);
pub const U_CMD_QUIESCE_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x16);
pub const U_CMD_TRY_STOP_DEV: u32 = ctrl(IOC_READ | IOC_WRITE, 0x17);

// I/O commands, on the device's character node.
pub const U_IO_FETCH_REQ: u32 = io(0x20);
pub const U_IO_COMMIT_AND_FETCH_REQ: u32 = io(0x21);
pub const U_IO_NEED_GET_DATA: u32 = io(0x22);
pub const U_IO_REGISTER_IO_BUF: u32 = io(0x23);
pub const U_IO_UNREGISTER_IO_BUF: u32 = io(0x24);

/// The result of an I/O command: the request of this tag waits in its descriptor.
pub const IO_RES_OK: i32 = 0;
/// The result of an I/O command: a write, whose data comes with NEED_GET_DATA.
pub const IO_RES_NEED_GET_DATA: i32 = 1;
/// The result of an I/O command: the device is stopping, fetch no more.
pub const IO_RES_ABORT: i32 = -libc::ENODEV;

/// Where the descriptors of queue 0 lie in the mapping of the character node.
pub const CMD_BUF_OFFSET: u64 = 0;
pub const MAX_QUEUE_DEPTH: u16 = 4096;
pub const MAX_NR_QUEUES: u16 = 4096;
/// The largest `max_io_buf_bytes`.
pub const MAX_IO_BUF_BYTES: u32 = 32 << 20;

/// Where the data of requests begin for `pread` and `pwrite` of the character node.
pub const IO_BUF_OFFSET: u64 = 0x8000_0000;
/// The position in such a file: bytes, then the tag, then the queue.
pub const IO_BUF_BITS: u32 = 25;
pub const TAG_BITS: u32 = 16;

// `DevInfo::flags`.
pub const F_SUPPORT_ZERO_COPY: u64 = 1 << 0;
pub const F_URING_CMD_COMP_IN_TASK: u64 = 1 << 1;
pub const F_NEED_GET_DATA: u64 = 1 << 2;
pub const F_USER_RECOVERY: u64 = 1 << 3;
pub const F_USER_RECOVERY_REISSUE: u64 = 1 << 4;
pub const F_UNPRIVILEGED_DEV: u64 = 1 << 5;
pub const F_CMD_IOCTL_ENCODE: u64 = 1 << 6;
pub const F_USER_COPY: u64 = 1 << 7;
pub const F_ZONED: u64 = 1 << 8;
pub const F_USER_RECOVERY_FAIL_IO: u64 = 1 << 9;
pub const F_UPDATE_SIZE: u64 = 1 << 10;
pub const F_AUTO_BUF_REG: u64 = 1 << 11;
pub const F_QUIESCE: u64 = 1 << 12;
pub const F_PER_IO_DAEMON: u64 = 1 << 13;
pub const F_BUF_REG_OFF_DAEMON: u64 = 1 << 14;
pub const F_BATCH_IO: u64 = 1 << 15;
pub const F_INTEGRITY: u64 = 1 << 16;
pub const F_SAFE_STOP_DEV: u64 = 1 << 17;
pub const F_NO_AUTO_PART_SCAN: u64 = 1 << 18;
pub const F_SHMEM_ZC: u64 = 1 << 19;
pub const F_IO_DESC_SIZE: u64 = 1 << 20;

/// In the SQE's address of a command with `F_AUTO_BUF_REG`, above the 16 bits of the index: when
/// the driver cannot register the buffer, it says so with `IO_F_NEED_REG_BUF`.
pub const AUTO_BUF_REG_FALLBACK: u64 = 1 << 0;

/// The names of the feature bits, lowest bit first.
pub const FEATURE_NAMES: [&str; 21] = [
    "SUPPORT_ZERO_COPY",
    "URING_CMD_COMP_IN_TASK",
    "NEED_GET_DATA",
    "USER_RECOVERY",
    "USER_RECOVERY_REISSUE",
    "UNPRIVILEGED_DEV",
    "CMD_IOCTL_ENCODE",
    "USER_COPY",
    "ZONED",
    "USER_RECOVERY_FAIL_IO",
    "UPDATE_SIZE",
    "AUTO_BUF_REG",
    "QUIESCE",
    "PER_IO_DAEMON",
    "BUF_REG_OFF_DAEMON",
    "BATCH_IO",
    "INTEGRITY",
    "SAFE_STOP_DEV",
    "NO_AUTO_PART_SCAN",
    "SHMEM_ZC",
    "IO_DESC_SIZE",
];

// States of a device.
pub const S_DEV_DEAD: u16 = 0;
pub const S_DEV_LIVE: u16 = 1;
pub const S_DEV_QUIESCED: u16 = 2;
pub const S_DEV_FAIL_IO: u16 = 3;

// Operations, in the low byte of `IoDesc::op_flags`.
pub const IO_OP_READ: u32 = 0;
pub const IO_OP_WRITE: u32 = 1;
pub const IO_OP_FLUSH: u32 = 2;
pub const IO_OP_DISCARD: u32 = 3;
pub const IO_OP_WRITE_ZEROES: u32 = 5;

// Flags of an operation, in place in `IoDesc::op_flags`.
pub const IO_F_FUA: u32 = 1 << 13;
pub const IO_F_NOUNMAP: u32 = 1 << 15;
pub const IO_F_NEED_REG_BUF: u32 = 1 << 17;

// `ParamBasic::attrs`.
pub const ATTR_READ_ONLY: u32 = 1 << 0;
pub const ATTR_ROTATIONAL: u32 = 1 << 1;
pub const ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub const ATTR_FUA: u32 = 1 << 3;

// `Params::types`.
pub const PARAM_TYPE_BASIC: u32 = 1 << 0;
pub const PARAM_TYPE_DISCARD: u32 = 1 << 1;
pub const PARAM_TYPE_DEVT: u32 = 1 << 2;
pub const PARAM_TYPE_DMA_ALIGN: u32 = 1 << 4;
pub const PARAM_TYPE_SEGMENT: u32 = 1 << 5;

/// The argument of a control command, in the SQE's command area.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct CtrlCmd {
    pub dev_id: u32,
    /// `u16::MAX` when the command is for no queue.
    pub queue_id: u16,
    /// Bytes at `addr`.
    pub len: u16,
    pub addr: u64,
    pub data: u64,
    pub dev_path_len: u16,
    pub pad: u16,
    pub reserved: u32,
}

/// What a device is: in and out of ADD_DEV, out of GET_DEV_INFO.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct DevInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: u16,
    /// From one descriptor to the next, with [`F_IO_DESC_SIZE`].
    pub io_desc_size: u16,
    /// Bytes of the largest request.
    pub max_io_buf_bytes: u32,
    pub dev_id: u32,
    pub ublksrv_pid: i32,
    pub pad1: u32,
    pub flags: u64,
    pub ublksrv_flags: u64,
    pub owner_uid: u32,
    pub owner_gid: u32,
    pub reserved1: u64,
    pub reserved2: u64,
}

/// A request, in the shared descriptor of its tag.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct IoDesc {
    pub op_flags: u32,
    pub nr_sectors: u32,
    pub start_sector: u64,
    pub addr: u64,
}

/// The argument of an I/O command, in the SQE's command area.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct IoCmd {
    pub q_id: u16,
    pub tag: u16,
    /// Bytes done, or a negative errno.
    pub result: i32,
    /// The tag's buffer.
    pub addr: u64,
}

/// Geometry; all sectors are 512 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamBasic {
    pub attrs: u32,
    pub logical_bs_shift: u8,
    pub physical_bs_shift: u8,
    pub io_opt_shift: u8,
    pub io_min_shift: u8,
    pub max_sectors: u32,
    pub chunk_sectors: u32,
    pub dev_sectors: u64,
    pub virt_boundary_mask: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamDiscard {
    pub discard_alignment: u32,
    /// Bytes.
    pub discard_granularity: u32,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_discard_segments: u16,
    pub reserved0: u16,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamDevt {
    pub char_major: u32,
    pub char_minor: u32,
    pub disk_major: u32,
    pub disk_minor: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamZoned {
    pub max_open_zones: u32,
    pub max_active_zones: u32,
    pub max_zone_append_sectors: u32,
    pub reserved: [u8; 20],
}

/// How the memory of I/O must be aligned that the server does not get a copy of.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamDmaAlign {
    /// A mask: the alignment in bytes, less one.
    pub alignment: u32,
    pub pad: u32,
}

/// The pieces of memory that a request may have.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ParamSegment {
    pub seg_boundary_mask: u64,
    /// Bytes.
    pub max_segment_size: u32,
    pub max_segments: u16,
    pub pad: u16,
}

/// All parameters that the driver knows; newer kernels append, and take and
/// give `len` bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Params {
    pub len: u32,
    pub types: u32,
    pub basic: ParamBasic,
    pub discard: ParamDiscard,
    pub devt: ParamDevt,
    pub zoned: ParamZoned,
    pub dma: ParamDmaAlign,
    /// To the alignment of the next member.
    pub pad: u32,
    pub seg: ParamSegment,
}

boundary! {
    CtrlCmd: 32,
    DevInfo: 64,
    IoDesc: 24,
    IoCmd: 16,
    ParamBasic: 32,
    ParamDiscard: 20,
    ParamDevt: 16,
    ParamZoned: 32,
    ParamDmaAlign: 8,
    ParamSegment: 16,
    Params: 136,
}

impl Params {
    /// Memory begins at multiples of `bytes`, a power of two of at most a page.
    pub fn align_memory(&mut self, bytes: u32) {
        self.types |= PARAM_TYPE_DMA_ALIGN;
        self.dma.alignment = bytes - 1;
    }

    /// No parameters yet.
    pub fn unset() -> Self {
        Params {
            len: size_of::<Self>() as u32,
            ..Params::zeroed()
        }
    }
}
