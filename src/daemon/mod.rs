// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon: a process that serves a device, or several.
//!
//! ```text
//! spawn ─► fork ─► child: serve ─► ADD, fetch, slots, bind, START ─► ready
//!   │                              or START_RECOVERY, fetch, END_RECOVERY
//!   │                                                                  │
//!   └──────────── waits at a pipe for "ready" or the error ◄───────────┘
//! ```
//!
//! The main thread sleeps until a signal comes or a queue ends; one thread for
//! each queue serves requests. There are no timers: an idle daemon stays asleep.
//!
//! A device that was added to be recovered outlives its daemon, however that ends but by a signal
//! that asks it to remove the device. [`record`] has what the next one must know.

mod background;
mod device;
mod harden;
mod queues;
pub mod record;
mod wait;

pub use background::{close_inherited, spawn};

use crate::control::{AddRequest, Control};
use crate::error::{Error, Result};
use crate::fastpath::Setting;
use crate::target::Target;
use crate::uapi::ublk;
use device::Device;
use std::sync::Arc;
use std::time::Duration;
use wait::{Event, Signals};

/// A program to bind before the device starts.
#[derive(Debug, Clone, Default)]
pub struct FastPath {
    /// The name of a registered program or, with settings, of a shipped one.
    pub program: String,
    pub cookie: u64,
    /// If there are any, the device gets a program of its own with them, which
    /// is unloaded with the device.
    pub settings: Vec<Setting>,
    /// While there is no daemon, what the program would map shares the fate of what it declines.
    pub stops_with_daemon: bool,
}

/// A device to make and to serve.
pub struct Config {
    /// Opened before anything else, to find out whether there is a driver.
    pub control: Control,
    pub add: AddRequest,
    pub target: Arc<dyn Target>,
    pub fast_path: Option<FastPath>,
    /// Let the driver do what the target can leave to it.
    pub forward: bool,
}

/// A device that is there, and has no daemon or loses it just now.
pub struct Takeover {
    pub control: Control,
    /// Held until the new daemon serves.
    pub lock: record::Lock,
    pub id: u32,
    /// It must serve what the one before it did.
    pub target: Arc<dyn Target>,
    /// What is bound to the device.
    pub fast_path: Option<FastPath>,
    pub forward: bool,
    /// How long to wait for the old daemon to let go.
    pub patience: Duration,
}

/// What a daemon is to do.
pub enum Job {
    Add(Config),
    TakeOver(Takeover),
}

impl From<Config> for Job {
    fn from(config: Config) -> Self {
        Job::Add(config)
    }
}

impl From<Takeover> for Job {
    fn from(takeover: Takeover) -> Self {
        Job::TakeOver(takeover)
    }
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
/// When this fails before `ready`, nothing of a new device is left, and one that was to be taken
/// over waits as it did.
pub fn serve(job: impl Into<Job>, ready: impl FnOnce(Started)) -> Result<()> {
    serve_all(vec![job.into()], |started| {
        started.first().copied().map(ready);
    })
}

/// Serves several devices in this process, each until it is stopped; calls `ready` once all have
/// started.
///
/// # Errors
/// When one fails before `ready`, all are as with [`serve`]. Later, the failure of one is reported
/// when the last has ended.
pub fn serve_all(jobs: Vec<Job>, ready: impl FnOnce(&[Started])) -> Result<()> {
    // Before any thread starts, so that all have the mask.
    let signals = Signals::block()?;
    let users =
        |job: &Job| matches!(job, Job::Add(it) if it.add.flags & ublk::F_UNPRIVILEGED_DEV != 0);
    let hardened = !jobs.iter().any(users);
    if hardened {
        harden::process();
    }
    let mut devices = jobs
        .into_iter()
        .map(|job| Device::prepare(job).map_err(harden::explain))
        .collect::<Result<Vec<_>>>()?;
    // Nothing is opened by its path any more, except in the commands for users' devices.
    if hardened {
        harden::mounts();
    }
    for device in &mut devices {
        device.start(&signals).map_err(harden::explain)?;
    }
    ready(&devices.iter().map(Device::started).collect::<Vec<_>>());

    let mut result = Ok(());
    while !devices.is_empty() {
        match wait::wait(&signals, devices.iter().map(Device::bell))? {
            Event::Signal => break, // and dropping the devices removes them
            Event::QueueEnded(place) => {
                let ended = devices.remove(place).end();
                if let (Err(err), false) = (&ended, devices.is_empty()) {
                    log::error!("{err:#}");
                }
                result = result.and(ended);
            }
        }
    }
    result
}

fn unsupported(text: String) -> Error {
    Error::new(crate::Kind::Unsupported, text)
}
