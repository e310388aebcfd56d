// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share. Everything that a test makes is a guard whose drop takes it away; make
//! the backing before the device, so that they go in the right order.

pub mod backing;
mod device;
mod disk;
mod dm;
mod fio;
pub mod io;
pub mod kernel_log;
mod leaks;
pub mod leftovers;
pub mod model;
pub mod module;
pub mod mount;
mod prog;
mod quiet;
pub mod raw;
mod raw_user;
pub mod runner;
mod shell;
mod shutdown;
mod standby;
pub mod supervisor;
mod trace;
pub mod tree;
mod way;

pub use device::{Counters, Ubd};
pub use disk::{Files, LoopDisk, NullDisk, RamDisk, RAM_DISK_MIB};
pub use dm::Dm;
pub use fio::Fio;
pub use prog::{object, shipped_object, Prog};
pub use quiet::{growth, Quiet};
pub use raw_user::RawUser;
pub use shell::{fails, sh, Background};
pub use standby::Standby;
pub use trace::traced;
pub use way::Way;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use ubd_bpf::control::Control;

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

/// Whether there is a night's time.
pub fn is_long() -> bool {
    std::env::var_os("UBD_LONG").is_some()
}

/// Loads a module of the kernel's that the test needs.
pub fn needs(module: &str) -> Result<()> {
    match sh(format!("modprobe {module}")) {
        Ok(_) => Ok(()),
        Err(_) => bail!(Skip(format!("the kernel has no {module}"))),
    }
}

/// Skips unless the driver offers all of `features` (`UBLK_F_*`) on this kernel.
pub fn needs_features(features: u64) -> Result<Control> {
    let control = Control::open()?;
    let missing = features & !control.ublk_features()?;
    if missing != 0 {
        bail!(Skip(format!(
            "the driver does not offer {missing:#x} on this kernel"
        )));
    }
    Ok(control)
}

/// A test that does what others do in another combination: when there is time.
pub fn long_only(test: impl FnOnce() -> Result<()>) -> Result<()> {
    match is_long() {
        true => test(),
        false => bail!(Skip("only with UBD_LONG=1".into())),
    }
}

/// How much slower than a stock kernel this one is: time limits and runs of load stretch by it.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        match symbols.contains(" kasan_report\n") {
            true => 6,
            false => 1,
        }
    })
}

/// `seconds` on a stock kernel; longer on a debug kernel.
pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * slowness()
}

/// Waits until `done`, looking every 20 ms; an error that says `what` after `limit`, stretched on
/// a slow kernel.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let limit = limit * slowness();
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
