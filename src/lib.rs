// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices whose mapping lives in user space and whose data path lives
//! in the kernel.
//!
//! Data flows down one way:
//!
//! ```text
//! cli ──► daemon ──► target ──► channel ──► uapi
//!            │                                ▲
//!            └──► fastpath, control ──────────┘
//! ```
//!
//! A target whose data moves keeps a [`cluster`] map, which the driver reads.
//!
//! A [`target`] says what the bytes of a device are and never touches a ring;
//! the [`channel`] serves a queue of the driver and knows no target.

pub mod channel;
pub mod cli;
pub mod cli_bpf;
pub mod cluster;
pub mod control;
pub mod cycles;
pub mod daemon;
pub mod error;
pub mod fastpath;
mod limited;
pub mod size;
pub mod sysfs;
pub mod target;
pub mod uapi;

pub use error::{Error, Kind, Result};
