// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files whose ends move under a device: errors are right, memory of somebody's is not.

use std::fs::OpenOptions;

use anyhow::{ensure, Context, Result};

use super::model::tally;
use super::stage::Worker;
use crate::files::full::look_while_truncated;
use crate::support::backing::same;
use crate::support::io::{read_direct, write_direct};
use crate::support::mount::image;
use crate::support::{seconds, Files, Ubd};

const IMAGE: usize = 4 << 20;

pub fn lives(worker: &mut Worker) -> Result<()> {
    while worker.stage.goes_on() {
        live(worker)?;
        worker.stage.count("devices whose files shrink", 1);
    }
    Ok(())
}

fn live(worker: &mut Worker) -> Result<()> {
    worker.does("make a device");
    let files = Files::ext4()?;
    let (path, bytes) = image(files.dir(), "image", IMAGE)?;
    let way = worker.pick(&["--bpf-fastpath", "--bpf-fastpath", "--forward", ""]);
    let options = format!(
        "{way} {}",
        worker.pick(&["--direct-io=on", "--direct-io=off"])
    );
    let ubd = Ubd::add(&["-t loop", &options, "-f", &path.to_string_lossy()])?;
    let file = OpenOptions::new().write(true).open(&path)?;
    let span = worker.span();
    worker.does("move the end of a file");
    let (good, bad) = look_while_truncated(&ubd.node(), &bytes, &file, span, worker.rng.u64(..))
        .with_context(|| format!("`{options}`"))?;
    worker.stage.count("ios on shrinking files: good", good);
    worker.stage.count("ios on shrinking files: failed", bad);
    // Of a short time there may be none at which the file was long enough.
    ensure!(
        good > 0 || span < seconds(5),
        "no I/O was good, `{options}`"
    );
    // Whatever it has been through, it is as good as new.
    worker.does("write all of it again");
    file.set_len(IMAGE as u64)?;
    write_direct(ubd.node(), 0, &bytes)?;
    same(&read_direct(ubd.node(), 0, IMAGE)?, &bytes).with_context(|| format!("`{options}`"))?;
    tally(worker, &ubd)?;
    ubd.del()
}
