// SPDX-License-Identifier: MIT OR Apache-2.0
//! ubd's own commands, from `kmod/ubd_cmd.h` and `bpf/ubd_bpf.h`.

use super::{boundary, ioc, IOC_READ, IOC_WRITE};

pub const OPS_NAME_LEN: usize = 16;
pub const MAX_SLOTS: u32 = 64;
pub const REASON_LEN: usize = 128;

// Verdicts; negative ones are errnos.
pub const MAP_DECLINE: i32 = 0;
pub const MAP_BACKING: i32 = 1;
pub const MAP_ZERO: i32 = 2;

// `BpfIo::op`.
pub const OP_READ: u32 = 0;
pub const OP_WRITE: u32 = 1;
pub const OP_FLUSH: u32 = 2;
pub const OP_DISCARD: u32 = 3;
pub const OP_WRITE_ZEROES: u32 = 5;

// `BpfIo::flags`.
pub const IO_META: u32 = 1 << 11;
pub const IO_FUA: u32 = 1 << 13;
pub const IO_NOUNMAP: u32 = 1 << 15;
pub const IO_SWAP: u32 = 1 << 16;

// `ubd_bpf_ops.flags`.
pub const OPS_WANT_DISCARD: u32 = 1 << 0;
pub const OPS_DISCARD_WRITES: u32 = 1 << 1;
pub const OPS_TRACKED: u32 = 1 << 2;

// A word of a cluster map, from `bpf/ubd_cluster.h`.
pub const CLUSTER_VALID: u64 = 1 << 0;
pub const CLUSTER_WRITABLE: u64 = 1 << 1;
pub const CLUSTER_ZERO: u64 = 1 << 2;
pub const CLUSTER_LOCKED: u64 = 1 << 3;
pub const CLUSTER_SLOT_SHIFT: u32 = 4;
pub const CLUSTER_SLOT_BITS: u32 = 6;
pub const CLUSTER_GEN_SHIFT: u32 = 10;
pub const CLUSTER_GEN_BITS: u32 = 14;
pub const CLUSTER_PLACE_SHIFT: u32 = 24;
pub const CLUSTER_PLACE_BITS: u32 = 40;
pub const CLUSTER_MAX_SHIFT: u32 = 21;

// `Features::features`.
pub const F_BPF_FASTPATH: u64 = 1 << 0;
pub const F_BLOCK_SLOTS: u64 = 1 << 1;
pub const F_FILE_SLOTS: u64 = 1 << 2;
pub const F_TEST_RUN: u64 = 1 << 3;
pub const F_FENCE: u64 = 1 << 4;
pub const F_FILE_INLINE: u64 = 1 << 5;
pub const F_FORWARD: u64 = 1 << 6;
pub const F_POLICY: u64 = 1 << 7;
pub const F_RESIZE_SLOT: u64 = 1 << 8;

/// The names of ubd's feature bits, lowest bit first.
pub const FEATURE_NAMES: [&str; 9] = [
    "BPF_FASTPATH",
    "BLOCK_SLOTS",
    "FILE_SLOTS",
    "TEST_RUN",
    "FENCE",
    "FILE_INLINE",
    "FORWARD",
    "POLICY",
    "RESIZE_SLOT",
];

// Flags of slots; the last three are only told.
pub const SLOT_WRITE: u32 = 1 << 0;
pub const SLOT_DIRECT: u32 = 1 << 1;
pub const SLOT_FILE: u32 = 1 << 2;
pub const SLOT_DRAINING: u32 = 1 << 3;
pub const SLOT_DIRTY: u32 = 1 << 4;

/// Register at any free slot number.
pub const SLOT_ANY: u32 = u32::MAX;

/// `Policy::flags`: mapped I/O shares the fate of declined I/O.
pub const POLICY_STOP_MAPPED: u32 = 1 << 0;

pub const PROG_LIVE: u32 = 0;
pub const PROG_EJECTED: u32 = 1;

/// What the driver can do.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Features {
    pub features: u64,
    pub ublk_features: u64,
    pub max_slots: u32,
    pub max_queue_depth: u32,
    pub version: [u8; 16],
}

/// One bio, or what is left of it, and the answer to it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct BpfIo {
    pub sector: u64,
    pub cookie: u64,
    pub nr_sectors: u32,
    pub dev_id: u32,
    pub op: u32,
    pub flags: u32,
    pub nr_slots: u32,
    pub slot: u32,
    pub map_sector: u64,
    pub map_sectors: u32,
    pub reserved: u32,
}

/// Registers an open file or block device as a slot; sectors are 512 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotReg {
    pub dev_id: u32,
    pub fd: i32,
    pub flags: u32,
    /// In: the number or [`SLOT_ANY`]; out: the number.
    pub slot: u32,
    pub offset: u64,
    /// In: the length, 0 for all; out: the length.
    pub nr_sectors: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotUnreg {
    pub dev_id: u32,
    pub slot: u32,
}

/// A slot as the driver tells it; sectors are 512 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotInfo {
    pub slot: u32,
    pub flags: u32,
    pub offset: u64,
    pub nr_sectors: u64,
    /// `(major << 32) | minor`, of the block device or of the file's file system.
    pub dev: u64,
    /// The file's inode, or 0.
    pub ino: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotList {
    pub dev_id: u32,
    pub nr: u32,
    pub addr: u64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Bind {
    pub dev_id: u32,
    pub flags: u32,
    pub cookie: u64,
    pub name: [u8; OPS_NAME_LEN],
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Unbind {
    pub dev_id: u32,
    pub reserved: u32,
}

/// A registered program as the driver tells it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ProgInfo {
    pub name: [u8; OPS_NAME_LEN],
    pub flags: u32,
    pub state: u32,
    /// Devices it is bound to.
    pub nr_bound: u32,
    pub reserved: u32,
    pub bad_verdicts: u64,
    pub reason: [u8; REASON_LEN],
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ProgList {
    pub nr: u32,
    pub reserved: u32,
    pub addr: u64,
}

/// Runs a registered program on a made-up io.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TestRun {
    pub name: [u8; OPS_NAME_LEN],
    pub io: BpfIo,
    pub slot_sectors: u64,
    /// Bytes.
    pub block_size: u32,
    pub verdict: i32,
    pub bad: u32,
    pub reserved: u32,
    pub reason: [u8; REASON_LEN],
}

/// Waits for the bios that were mapped by what a program's maps held before.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    pub dev_id: u32,
    pub reserved: u32,
}

/// What happens while no server is there.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub dev_id: u32,
    /// `POLICY_*`.
    pub flags: u32,
}

/// Changes the length of a slot's window; its start stays.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotResize {
    pub dev_id: u32,
    pub slot: u32,
    /// In: the length, 0 to the end; out: the length.
    pub nr_sectors: u64,
}

/// An I/O command: the driver does the data I/O of a request, on a slot.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    pub q_id: u16,
    pub tag: u16,
    pub slot: u32,
    /// In the slot.
    pub sector: u64,
}

/// A word to compare and exchange when the data of a forwarded request is there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Install {
    pub addr: u64,
    pub expect: u64,
    pub value: u64,
}

boundary! {
    Features: 40,
    BpfIo: 56,
    SlotReg: 32,
    SlotUnreg: 8,
    SlotInfo: 40,
    SlotList: 16,
    Bind: 32,
    Unbind: 8,
    ProgInfo: 168,
    ProgList: 16,
    TestRun: 224,
    Fence: 8,
    Forward: 16,
    Install: 24,
    Policy: 8,
    SlotResize: 16,
}

const fn cmd<T>(dir: u32, nr: u8) -> u32 {
    ioc(dir, 0xBD, nr, size_of::<T>())
}

pub const CMD_FEATURES: u32 = cmd::<Features>(IOC_READ, 0x01);
pub const CMD_REG_SLOT: u32 = cmd::<SlotReg>(IOC_READ | IOC_WRITE, 0x02);
pub const CMD_UNREG_SLOT: u32 = cmd::<SlotUnreg>(IOC_WRITE, 0x03);
pub const CMD_LIST_SLOTS: u32 = cmd::<SlotList>(IOC_READ | IOC_WRITE, 0x04);
pub const CMD_BIND: u32 = cmd::<Bind>(IOC_WRITE, 0x05);
pub const CMD_UNBIND: u32 = cmd::<Unbind>(IOC_WRITE, 0x06);
pub const CMD_LIST_PROGS: u32 = cmd::<ProgList>(IOC_READ | IOC_WRITE, 0x07);
pub const CMD_TEST_RUN: u32 = cmd::<TestRun>(IOC_READ | IOC_WRITE, 0x08);
pub const CMD_FENCE: u32 = cmd::<Fence>(IOC_WRITE, 0x09);
pub const CMD_SET_POLICY: u32 = cmd::<Policy>(IOC_WRITE, 0x0a);
pub const CMD_RESIZE_SLOT: u32 = cmd::<SlotResize>(IOC_READ | IOC_WRITE, 0x0b);
pub const U_IO_FORWARD: u32 = cmd::<Forward>(IOC_READ | IOC_WRITE, 0x20);
