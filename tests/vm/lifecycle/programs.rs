// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that change while they are asked.

use anyhow::{ensure, Context, Result};
use ubd_bpf::control::Control;

use super::load;
use crate::support::{object, sh, shipped_object, Files, Prog, RamDisk, Ubd};

/// Objects that all agree where the data is, and differ in who fetches it.
fn replace_while_loaded(ubd: &Ubd, prog: &Prog) -> Result<()> {
    sh(format!("ubd-bpf bind {} {}", ubd.id(), prog.name()))?;
    let before = ubd.counters()?;
    let mut load = load(&ubd.node(), 25)?;
    let mut replaced = 0;
    while load.is_running() {
        prog.replace(&object("checker"), &["chunk=8"])?;
        prog.replace(&shipped_object("linear"), &[])?;
        prog.replace(&object("decline_random"), &["percent=30"])?;
        replaced += 3;
    }
    load.finish()
        .context("I/O failed while the program was replaced")?;
    let counted = ubd.counters()?.since(&before);
    ensure!(replaced >= 3, "replaced only {replaced} times");
    ensure!(
        counted["bad"] == 0 && counted["error"] == 0,
        "{}",
        counted.summary()
    );
    ensure!(
        counted["mapped"] > 50 && counted["declined"] > 50,
        "{}",
        counted.summary()
    );
    Ok(())
}

pub fn replace_under_load() -> Result<()> {
    let disk = RamDisk::new()?;
    let prog = Prog::load_as(&shipped_object("linear"), "changing", &[])?;
    let ubd = Ubd::add(&["-t loop -f", &disk.node(), "--sizelimit 32M --bpf-fastpath"])?;
    replace_while_loaded(&ubd, &prog)?;
    ubd.del()
}

pub fn bind_under_load() -> Result<()> {
    let files = Files::ext4()?;
    let backing = files.file("backing", 32 << 20)?;
    let checker = Prog::load("checker", &["chunk=8"])?;
    let ubd = Ubd::add(&[
        "-t loop -f",
        &backing.display().to_string(),
        "--direct-io=on --bpf-fastpath",
    ])?;
    let control = Control::open()?;
    let before = ubd.counters()?;
    let mut load = load(&ubd.node(), 6)?;
    let mut rounds = 0;
    while load.is_running() {
        match rounds % 3 {
            0 => control.bind(ubd.id(), checker.name(), rounds)?,
            1 => control.bind(ubd.id(), "linear", 0)?,
            _ => control.unbind(ubd.id())?,
        }
        rounds += 1;
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    load.finish()
        .context("I/O failed while programs were bound and unbound")?;
    let counted = ubd.counters()?.since(&before);
    ensure!(rounds > 30, "only {rounds} rounds");
    ensure!(
        counted["bad"] == 0 && counted["error"] == 0,
        "{}",
        counted.summary()
    );
    ensure!(
        counted["mapped"] > 50 && counted["declined"] > 50,
        "{}",
        counted.summary()
    );
    ubd.del()
}

/// Unloading takes effect at once, under load, and the device is the daemon's from then on.
pub fn unload_bound() -> Result<()> {
    let disk = RamDisk::new()?;
    let prog = Prog::load_as(&shipped_object("linear"), "passing", &[])?;
    let ubd = Ubd::add(&[
        "-t loop -f",
        &disk.node(),
        "--sizelimit 32M --bpf-fastpath=passing",
    ])?;
    let load = load(&ubd.node(), 8)?;
    super::goes_on(&ubd)?;
    prog.unload()?;
    ensure!(
        ubd.attr("ubd/program_state")? == "none" && ubd.attr("ubd/program")?.is_empty(),
        "still bound"
    );
    let before = ubd.counters()?;
    load.finish()
        .context("I/O failed when the program was unloaded")?;
    ubd.counters()?.since(&before).all_declined(20)?;
    ubd.del()
}
