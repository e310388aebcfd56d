// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share. Everything that a test makes is a guard whose drop takes it away; make
//! the backing before the device, so that they go in the right order.

pub mod backing;
mod device;
mod disk;
mod fio;
pub mod io;
mod kernel_log;
mod leftovers;
pub mod model;
mod module;
mod prog;
pub mod raw;
mod runner;
mod shell;
pub mod supervisor;
pub mod tree;

pub use device::{Counters, Ubd};
pub use disk::{Files, LoopDisk, NullDisk, RamDisk};
pub use fio::Fio;
pub use prog::{object, shipped_object, Prog};
pub use shell::{fails, sh, Background};

use std::time::{Duration, Instant};

use anyhow::{bail, Result};

/// One test. The name is `module/what_it_is_about`.
pub struct Test {
    pub name: &'static str,
    pub run: fn() -> Result<()>,
}

impl Test {
    pub const fn new(name: &'static str, run: fn() -> Result<()>) -> Test {
        Test { name, run }
    }
}

/// Why a test cannot run on the kernel at hand; return it as the error.
#[derive(Debug)]
pub struct Skip(pub String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Waits until `done`, looking every 20 ms; an error that says `what` after `limit`.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
