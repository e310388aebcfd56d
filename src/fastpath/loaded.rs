// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object in the kernel: past the verifier, on its way into the driver.

use super::output::{self, Refusal};
use super::vars::OPS_TYPE;
use super::{Name, Opened};
use crate::error::{Error, Kind, Result};
use libbpf_rs::{ErrorKind, Link, MapCore, Object, ProgramType};

/// An object that is in the kernel and not registered yet. Dropping it unloads it.
#[derive(Debug)]
pub struct Loaded {
    label: String,
    ops: String,
    pub name: Name,
    pub object: Object,
}

impl Loaded {
    /// Hands maps and programs to the kernel; the verifier has its say.
    ///
    /// # Errors
    /// [`Kind::Rejected`] by the verifier, [`Kind::DriverMissing`] when the kernel does not know
    /// the ops, [`Kind::Permission`].
    pub fn load(opened: Opened) -> Result<Self> {
        let Opened {
            label,
            ops,
            name,
            object,
        } = opened;
        let (loaded, messages) = output::keep(|| object.load());
        let object = loaded.map_err(|err| load_error(&label, &messages, err))?;
        Ok(Loaded {
            label,
            ops,
            name,
            object,
        })
    }

    /// Registers the ops with the driver, for as long as the link lives.
    ///
    /// # Errors
    /// [`Kind::Exists`]: the name is taken. The ops are then ready to take the place of the
    /// registered ones, by an update of that one's link.
    pub fn attach(&mut self) -> Result<Link> {
        let (label, name, ops) = (&self.label, &self.name, self.ops.as_str());
        let mut map = self
            .object
            .maps_mut()
            .find(|map| map.name() == ops)
            .ok_or_else(|| {
                Error::new(
                    Kind::Protocol,
                    format!("failed to register `{label}`: its map `{ops}` is gone"),
                )
            })?;
        let (link, messages) = output::keep(|| map.attach_struct_ops());
        link.map_err(|err| match err.kind() {
            ErrorKind::AlreadyExists => Error::new(
                Kind::Exists,
                format!(
                    "failed to register `{label}`: a program `{name}` is loaded already; take \
                     another name (`--name`), replace it (`--replace`) or remove it \
                     (`ubd-bpf unload {name}`)"
                ),
            ),
            ErrorKind::PermissionDenied => Error::caused_by(
                Kind::Permission,
                format!("failed to register `{label}`"),
                err,
            ),
            ErrorKind::InvalidInput => Error::caused_by(
                Kind::Usage,
                format!(
                    "failed to register `{label}`: the driver does not take its ops; they need a \
                     `.map`, a `.name` and only flags of ubd_bpf.h{}",
                    said(&messages)
                ),
                err,
            ),
            _ => Error::caused_by(
                Kind::Io,
                format!("failed to register `{label}`{}", said(&messages)),
                err,
            ),
        })
    }

    /// The map of the ops.
    pub fn ops_map(&self) -> Option<libbpf_rs::Map<'_>> {
        self.object
            .maps()
            .find(|map| map.name() == self.ops.as_str())
    }

    /// The struct_ops programs; an object has one per callback, so here: one.
    pub fn programs(&self) -> impl Iterator<Item = libbpf_rs::ProgramMut<'_>> {
        self.object
            .progs_mut()
            .filter(|prog| prog.prog_type() == ProgramType::StructOps)
    }
}

fn load_error(label: &str, messages: &[String], err: libbpf_rs::Error) -> Error {
    if let Some(refusal) = Refusal::find(messages) {
        return Error::new(
            Kind::Rejected,
            format!(
                "failed to load `{label}`: the verifier rejected program `{}`\n{}\n\
                 the rule that it broke is in the last lines; docs/writing-a-program.md explains \
                 the common ones, and `ubd-bpf -v load …` shows the whole log",
                refusal.program,
                refusal.tail()
            ),
        );
    }
    let unknown = format!("struct bpf_struct_ops_{OPS_TYPE} is not found in kernel BTF");
    if messages.iter().any(|message| message.contains(&unknown)) {
        return Error::new(
            Kind::DriverMissing,
            format!(
                "failed to load `{label}`: the kernel does not know struct {OPS_TYPE}; the ubd driver \
                 is not loaded (`modprobe ubd_drv`) or was built without BTF"
            ),
        );
    }
    let kind = match err.kind() {
        ErrorKind::PermissionDenied => Kind::Permission,
        _ => Kind::Io,
    };
    Error::caused_by(
        kind,
        format!("failed to load `{label}`{}", said(messages)),
        err,
    )
}

/// libbpf's last word, in brackets.
fn said(messages: &[String]) -> String {
    messages
        .last()
        .map_or(String::new(), |text| format!(" ({text})"))
}
