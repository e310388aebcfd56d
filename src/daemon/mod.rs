// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: one process that serves one device.
//!
//! ```text
//! spawn ─► fork ─► child: serve ─► ADD, fetch, slots, bind, START ─► ready
//!   │                                                                  │
//!   └──────────── waits at a pipe for "ready" or the error ◄───────────┘
//! ```
//!
//! The main thread sleeps until a signal comes or a queue ends; one thread for
//! each queue serves requests. There are no timers: an idle daemon stays asleep.

mod background;
mod device;
mod harden;
mod queues;
pub mod record;
mod wait;

pub use background::{close_inherited, spawn};

use crate::control::{AddRequest, Control};
use crate::error::Result;
use crate::fastpath::Setting;
use crate::target::Target;
use std::sync::Arc;

/// A program to bind before the device starts.
#[derive(Debug, Clone)]
pub struct FastPath {
    /// The name of a registered program or, with settings, of a shipped one.
    pub program: String,
    pub cookie: u64,
    /// If there are any, the device gets a program of its own with them, which
    /// is unloaded with the device.
    pub settings: Vec<Setting>,
}

/// What a daemon is to serve.
pub struct Config {
    /// Opened before anything else, to find out whether there is a driver.
    pub control: Control,
    pub add: AddRequest,
    pub target: Arc<dyn Target>,
    pub fast_path: Option<FastPath>,
    /// Let the driver do what the target can leave to it.
    pub forward: bool,
}

/// A device that has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// N of `/dev/ubdbN`.
    pub id: u32,
}

/// Serves a device in this process until it is stopped; calls `ready` once the
/// device has started.
///
/// # Errors
/// When this fails before `ready`, nothing of the device is left.
pub fn serve(config: Config, ready: impl FnOnce(Started)) -> Result<()> {
    // Before any thread starts, so that all have the mask.
    let signals = wait::Signals::block()?;
    harden::process();
    let device = device::Device::start(config).map_err(harden::explain)?;
    ready(device.started());
    device.serve(&signals)
}
