// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that are registered in the driver: load, replace, look at, unload.

use super::set::Setting;
use super::{pin, Loaded, Name, Opened, Shipped, Source};
use crate::control::{self, Control};
use crate::error::{Error, Kind, Result};
use crate::sysfs::{self, Disk};
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{libbpf_sys, Link, ProgramHandle};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::ptr;

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The program is new.
    Loaded,
    /// It took the place of the one of the same name, on all its devices.
    Replaced,
}

/// A registered program, and what user space knows of it.
#[derive(Debug, Clone)]
pub struct Program {
    /// What the driver says.
    pub driver: control::Program,
    /// Devices it is bound to, by number.
    pub devices: Vec<u32>,
    /// The directory of its pins, unless it was registered by other means than [`load`].
    pub pins: Option<PathBuf>,
}

/// What the kernel says of the code of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The C function; the kernel keeps 15 bytes.
    pub name: String,
    /// The id of bpftool.
    pub id: u32,
    /// Hash of the instructions, in hexadecimal.
    pub tag: String,
    /// BPF instructions.
    pub instructions: usize,
    /// Bytes of machine code; 0 if it is interpreted.
    pub jited_bytes: usize,
    /// Instructions that the verifier walked through.
    pub verified: u32,
}

/// Loads `source` and registers it, under `rename` if given, until [`unload`].
///
/// # Errors
/// [`Kind::Exists`] if the name is taken and `replace` is not set; [`Kind::Usage`] for an object
/// or a setting that makes no sense; [`Kind::Rejected`] by the verifier; [`Kind::DriverMissing`].
/// Nothing stays behind after an error, except where it says so.
pub fn load(
    source: &Source,
    rename: Option<&Name>,
    settings: &[Setting],
    replace: bool,
) -> Result<(Name, Outcome)> {
    let opened = Opened::open(source, rename, settings)?;
    let name = opened.name().clone();
    let control = Control::open()?;
    let _lock = pin::Lock::take()?;
    if !registered(&control, &name)? {
        // Left over by a link that was detached by other means.
        pin::remove(&name)?;
    }
    let mut loaded = Loaded::load(opened)?;
    let outcome = match loaded.attach() {
        Ok(mut link) => {
            if let Err(err) = pin::pin(&mut loaded, &mut link) {
                detach(&link, &name)?;
                return Err(err);
            }
            Outcome::Loaded
        }
        Err(err) if err.kind() == Kind::Exists && replace => {
            update(&loaded)?;
            pin::repin(&mut loaded)?;
            Outcome::Replaced
        }
        Err(err) => return Err(err),
    };
    Ok((name, outcome))
}

/// Makes sure that a program `name` is registered: one that is stays, else the shipped one of
/// that name is loaded. Callers may race.
///
/// # Errors
/// [`Kind::NotFound`] if there is neither, and those of [`load`].
pub fn ensure_loaded(name: &str) -> Result<()> {
    let control = Control::open()?;
    if registered(&control, &name.parse()?)? {
        return Ok(());
    }
    let shipped = Shipped::find(name).ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            format!(
                "failed to find a program `{name}`: none of that name is loaded, and it is not one \
                 of those that ship (linear, concat, stripe); load it with `ubd-bpf load FILE.o --name {name}`"
            ),
        )
    })?;
    match load(&shipped.into(), None, &[], false) {
        // Another caller was faster.
        Err(err) if err.kind() == Kind::Exists => Ok(()),
        result => result.map(drop),
    }
}

/// Unregisters program `name`; gives the number of devices that it was bound to, which decline
/// from now on.
pub fn unload(name: &Name) -> Result<u32> {
    let control = Control::open()?;
    let _lock = pin::Lock::take()?;
    let Some(program) = find(&control, name)? else {
        pin::remove(name)?;
        return Err(not_loaded(name));
    };
    let link = open_link(name)?;
    detach(&link, name)?;
    pin::remove(name)?;
    Ok(program.driver.nr_bound)
}

/// All registered programs, by name.
pub fn programs() -> Result<Vec<Program>> {
    all(&Control::open()?)
}

/// Program `name`, and the parts that its pins lead to.
pub fn program(name: &Name) -> Result<(Program, Vec<Part>)> {
    let program = find(&Control::open()?, name)?.ok_or_else(|| not_loaded(name))?;
    let parts = match &program.pins {
        Some(dir) => parts(dir)?,
        None => Vec::new(),
    };
    Ok((program, parts))
}

fn all(control: &Control) -> Result<Vec<Program>> {
    // A device that is not running, or that goes meanwhile, is bound to nothing.
    let bound: Vec<_> = sysfs::device_ids()?
        .into_iter()
        .filter_map(|id| Some((id, Disk::new(id).program().ok()??)))
        .collect();
    let mut all: Vec<_> = control
        .programs()?
        .into_iter()
        .map(|driver| {
            let devices = bound
                .iter()
                .filter(|(_, name)| *name == driver.name)
                .map(|(id, _)| *id);
            Program {
                devices: devices.collect(),
                pins: pins(&driver.name),
                driver,
            }
        })
        .collect();
    all.sort_by(|a, b| a.driver.name.cmp(&b.driver.name));
    Ok(all)
}

fn pins(name: &str) -> Option<PathBuf> {
    let name = name.parse().ok()?;
    pin::link(&name).exists().then(|| pin::dir(&name))
}

fn find(control: &Control, name: &Name) -> Result<Option<Program>> {
    Ok(all(control)?
        .into_iter()
        .find(|program| program.driver.name == name.as_str()))
}

fn registered(control: &Control, name: &Name) -> Result<bool> {
    Ok(control
        .programs()?
        .iter()
        .any(|program| program.name == name.as_str()))
}

fn not_loaded(name: &Name) -> Error {
    Error::new(
        Kind::NotFound,
        format!(
            "failed to find a program `{name}`: none of that name is loaded; see `ubd-bpf list`"
        ),
    )
}

/// The pinned link of a registered program.
pub(super) fn open_link(name: &Name) -> Result<Link> {
    let path = pin::link(name);
    if !path.exists() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "failed to open the registration of `{name}`: it was not made by `ubd-bpf load`; \
                 whoever registered it must remove or replace it (see `bpftool struct_ops list`)"
            ),
        ));
    }
    Link::open(&path).map_err(|err| {
        Error::caused_by(
            Kind::Io,
            format!("failed to open the link `{}`", path.display()),
            err,
        )
    })
}

/// Ends the registration at once, whoever else holds the link.
fn detach(link: &Link, name: &Name) -> Result<()> {
    link.detach()
        .map_err(|err| Error::caused_by(Kind::Io, format!("failed to unregister `{name}`"), err))
}

/// Lets the ops of `loaded` take the place of the registered ones of the same name.
fn update(loaded: &Loaded) -> Result<()> {
    let name = &loaded.name;
    let link = open_link(name)?;
    let map = loaded.ops_map().ok_or_else(|| {
        Error::new(
            Kind::Protocol,
            format!("failed to replace `{name}`: the map of the ops is gone"),
        )
    })?;
    // libbpf's own call wants the link object of the process that registered, not a pinned one.
    // SAFETY: both descriptors are open for the whole call, and no options are passed.
    let res = unsafe {
        libbpf_sys::bpf_link_update(
            link.as_fd().as_raw_fd(),
            map.as_fd().as_raw_fd(),
            ptr::null(),
        )
    };
    match res {
        0 => Ok(()),
        errno => Err(Error::os(
            format!("failed to replace `{name}`; the old one stays"),
            io::Error::from_raw_os_error(-errno),
        )),
    }
}

/// What the kernel says of the pinned programs in `dir`.
fn parts(dir: &PathBuf) -> Result<Vec<Part>> {
    let fail = |err: io::Error| Error::os(format!("failed to list `{}`", dir.display()), err);
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.file_name().to_string_lossy().starts_with("prog_") {
            continue;
        }
        let path = entry.path();
        let prog = ProgramHandle::from_pinned_path(&path).map_err(|err| {
            Error::caused_by(
                Kind::Io,
                format!("failed to open the program `{}`", path.display()),
                err,
            )
        })?;
        let opts = ProgInfoQueryOptions::default()
            .include_xlated_prog_insns(true)
            .include_jited_prog_insns(true);
        let info = ProgInfoIter::with_query_opts(opts).find(|info| info.id == prog.id());
        parts.push(Part {
            name: prog.name().to_string_lossy().into_owned(),
            id: prog.id(),
            tag: prog
                .tag()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            // An instruction has 8 bytes.
            instructions: info
                .as_ref()
                .map_or(0, |info| info.xlated_prog_insns.len() / 8),
            jited_bytes: info.as_ref().map_or(0, |info| info.jited_prog_insns.len()),
            verified: info.as_ref().map_or(0, |info| info.verified_insns),
        });
    }
    Ok(parts)
}
