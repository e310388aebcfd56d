// SPDX-License-Identifier: MIT OR Apache-2.0
//! Good devices, one mapped and one declined, that must not notice anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::support::{wait_for, RamDisk, RawUser, Ubd};

/// Their numbers: nobody who may harm them means these.
pub const IDS: std::ops::Range<u32> = 90..92;
const BYTES: usize = 8 << 20;

/// The devices with a user each; deleted when dropped.
pub struct Beside {
    users: Vec<JoinHandle<Result<()>>>,
    quit: Arc<AtomicBool>,
    done: Vec<Arc<AtomicU64>>,
    devices: Vec<Ubd>,
    disks: Vec<RamDisk>,
}

impl Beside {
    pub fn start() -> Result<Beside> {
        let quit = Arc::new(AtomicBool::new(false));
        let mut beside = Beside {
            users: Vec::new(),
            quit: quit.clone(),
            done: Vec::new(),
            devices: Vec::new(),
            disks: Vec::new(),
        };
        for (id, how) in IDS.zip(["--bpf-fastpath", ""]) {
            let disk = RamDisk::new()?;
            let device = Ubd::add(&[&format!(
                "-n {id} -t loop -f {} --sizelimit {BYTES} {how}",
                disk.node()
            )])?;
            let mut user = RawUser::of(&device.node(), vec![0; BYTES])?;
            let done = Arc::new(AtomicU64::new(0));
            let (count, quit) = (done.clone(), quit.clone());
            let backing = disk.node();
            beside.devices.push(device);
            beside.disks.push(disk);
            beside.done.push(done);
            beside.users.push(std::thread::spawn(move || {
                while !quit.load(Ordering::Relaxed) {
                    user.write(2)?;
                    user.read(2)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    // The others are to have some of the machine.
                    std::thread::sleep(Duration::from_millis(20));
                }
                user.check(backing)
            }));
        }
        Ok(beside)
    }

    /// Both users get on.
    pub fn goes_on(&self) -> Result<()> {
        for (id, done) in IDS.zip(&self.done) {
            let before = done.load(Ordering::Relaxed);
            let what = format!("the user of device {id}");
            wait_for(&what, Duration::from_secs(30), || {
                done.load(Ordering::Relaxed) > before
            })?;
        }
        Ok(())
    }

    /// Ends them; an error if one has seen anything.
    pub fn end(mut self) -> Result<()> {
        self.quit.store(true, Ordering::Relaxed);
        for (id, user) in IDS.zip(self.users.drain(..)) {
            user.join()
                .expect("a user")
                .with_context(|| format!("the good device {id}"))?;
        }
        let [mapped, declined] = self.devices.as_slice() else {
            ensure!(false, "there are not two devices");
            return Ok(());
        };
        let (mapped, declined) = (mapped.counters()?, declined.counters()?);
        ensure!(
            mapped["bad"] == 0 && mapped["mapped"] > 0,
            "{}",
            mapped.summary()
        );
        ensure!(
            declined["mapped"] == declined["flush_mapped"],
            "{}",
            declined.summary()
        );
        self.devices.drain(..).try_for_each(Ubd::del)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Relaxed);
        for user in self.users.drain(..) {
            let _ = user.join();
        }
    }
}
