// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps I/O going while the host looks at which instructions the machine executes.

use std::fs;
use std::path::Path as File;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::backing::{Backing, Kind};
use crate::path::Path;
use crate::{fio, plan};

const OUT: &str = "/ubd/out";

/// For job N: leaves the kernel's symbols in `kallsyms-N`, says `ready-N`, and goes on until the
/// host says `stop-N`.
pub fn run(kind: Kind) -> Result<()> {
    let plan = plan::read()?;
    let backing = Backing::make(kind)?;
    for job in &plan {
        let path = Path::open(&job.path, &backing)?;
        let index = job.index;
        // Programs and modules are among the symbols by now.
        fs::copy("/proc/kallsyms", format!("{OUT}/kallsyms-{index}"))
            .context("failed to copy the kernel's symbols")?;
        let mut fio = fio::endless(&path.node, job)?;
        fs::write(format!("{OUT}/ready-{index}"), "")?;
        let stop = format!("{OUT}/stop-{index}");
        while !File::new(&stop).exists() {
            let ended = fio.try_wait()?;
            ensure!(ended.is_none(), "fio ended by itself on `{}`", path.node);
            sleep(Duration::from_millis(500));
        }
        // Not SIGKILL, which fio's own child would survive.
        let pid = Pid::from_raw(i32::try_from(fio.id())?);
        kill(pid, Signal::SIGTERM).context("failed to end fio")?;
        fio.wait()?;
    }
    Ok(())
}
