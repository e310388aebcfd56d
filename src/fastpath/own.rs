// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program that belongs to one device.

use super::{pin, registry, Name, Setting, Shipped};
use crate::error::{Context, Error, Kind, Result};
use libbpf_rs::Link;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{unlinkat, UnlinkatFlags};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A shipped program that is loaded for one device, with its parameters;
/// dropping this unloads it.
///
/// It is pinned all the same: it goes on when the daemon is killed, as the
/// device does, and deleting the device unloads it then ([`unload_own`]).
#[derive(Debug)]
pub struct Own {
    name: Name,
    link: Link,
    /// The directory of all pins, that of this program's, and what is in there:
    /// whoever drops this may not see the file system any more.
    root: OwnedFd,
    dir: OwnedFd,
    pins: Vec<OsString>,
    kept: bool,
}

/// The name of the program that device `id` has of its own.
pub fn own_name(program: &str, id: u32) -> String {
    format!("{program}-{id}")
}

/// Whether `name` is one that a device `id` gives a program of its own.
pub fn is_own(name: &Name, id: u32) -> bool {
    let names = super::shipped().iter().map(|it| own_name(it.name, id));
    names.into_iter().any(|own| own == name.as_str())
}

impl Own {
    /// Loads the shipped `program` for device `id`. One of that name is the
    /// left-over of an earlier device, and makes way.
    pub fn load(program: &str, id: u32, settings: &[Setting]) -> Result<Self> {
        let shipped = Shipped::find(program).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("failed to find a program `{program}` among those that ship"),
            )
        })?;
        let name: Name = own_name(program, id).parse()?;
        registry::load(&shipped.into(), Some(&name), settings, true)?;
        Own::adopt(&name).inspect_err(|_| unload_own(&name))
    }

    /// The one that device `id` has already.
    pub fn find(program: &str, id: u32) -> Result<Self> {
        Own::adopt(&own_name(program, id).parse()?)
    }

    /// Puts other parameters in the place of those that it has, on a device that may be running.
    pub fn update(program: &str, id: u32, settings: &[Setting]) -> Result<()> {
        // It stays pinned where it was, for whoever has adopted it.
        Own::load(program, id, settings).map(Own::keep)
    }

    /// Leaves it in the driver, for the daemon that follows.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn adopt(name: &Name) -> Result<Self> {
        let dir = pin::dir(name);
        let list = || format!("failed to list `{}`", dir.display());
        let pins = fs::read_dir(&dir)
            .context(list)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .context(list)?;
        Ok(Own {
            link: registry::open_link(name)?,
            root: open_dir(dir.parent().unwrap_or(&dir))?,
            dir: open_dir(&dir)?,
            pins,
            name: name.clone(),
            kept: false,
        })
    }

    /// The name to bind.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).context(|| format!("failed to open `{}`", path.display()))
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // Whoever deletes the device may be doing the same: what is gone already is no failure.
        if let Err(err) = self.link.detach() {
            log::debug!("failed to unregister `{}`: {err}", self.name);
        }
        for pin in &self.pins {
            let _ = unlinkat(&self.dir, pin.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        let dir = pin::dir(&self.name);
        if let Some(dir) = dir.file_name() {
            let _ = unlinkat(&self.root, dir, UnlinkatFlags::RemoveDir);
        }
    }
}

/// Unloads the own program of a device whose daemon may not be there to do it.
pub fn unload_own(name: &Name) {
    // A daemon that is there does the same just now.
    if let Err(err) = registry::unload(name) {
        log::debug!("{err:#}");
    }
}
