// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that map by a cluster map: `cluster`, and others made with `bpf/ubd_cluster.h`.

use super::{pin, Loaded, Name, Opened, Source};
use crate::error::{Error, Kind, Result};
use libbpf_rs::{Link, MapCore, MapHandle};

/// What such a program calls its array of entries.
const ARRAY: &str = "clusters";

/// An object that only [`Clusters::load`] can use, for its array must be given a size.
macro_rules! source {
    ($name:literal) => {
        Source {
            label: $name.into(),
            bytes: include_bytes!(concat!(env!("OUT_DIR"), "/bpf/", $name, ".bpf.o"))
                .as_slice()
                .into(),
        }
    };
}

impl Source {
    /// The program that comes with the library for [`crate::cluster::ClusterMap`].
    pub fn cluster() -> Self {
        source!("cluster")
    }

    /// The same for maps that only gain entries: cheaper, and clusters cannot be moved.
    pub fn cluster_fixed() -> Self {
        source!("cluster_fixed")
    }
}

/// A program with its array in the kernel, not registered yet.
#[derive(Debug)]
pub struct Clusters(Loaded);

impl Clusters {
    /// Loads `source` as `name`, with room for `clusters` clusters of 2^`shift` sectors.
    ///
    /// # Errors
    /// [`Kind::Usage`] when the program is not made for a cluster map, and those of
    /// [`super::load`].
    pub fn load(source: &Source, name: &Name, clusters: u32, shift: u32) -> Result<Self> {
        let setting = format!("cluster_shift={shift}").parse()?;
        let mut opened = Opened::open(source, Some(name), &[setting])?;
        let label = opened.label.clone();
        opened
            .object
            .maps_mut()
            .find(|map| map.name() == ARRAY)
            .ok_or_else(|| no_array(&label))?
            .set_max_entries(clusters)
            .map_err(|err| {
                let what = format!("failed to make room for {clusters} clusters in `{label}`");
                Error::caused_by(Kind::Io, what, err)
            })?;
        Ok(Clusters(Loaded::load(opened)?))
    }

    /// The array.
    pub fn array(&self) -> Result<MapHandle> {
        let map = self.0.object.maps().find(|map| map.name() == ARRAY);
        let map = map.ok_or_else(|| no_array(self.0.name.as_str()))?;
        MapHandle::try_from(&map).map_err(|err| {
            Error::caused_by(Kind::Io, "failed to open the array of a cluster map", err)
        })
    }

    /// Registers the program, until the value returned here is dropped or the process ends.
    ///
    /// # Errors
    /// [`Kind::Exists`] if the name is taken.
    pub fn register(mut self) -> Result<Registered> {
        let link = self.0.attach()?;
        Ok(Registered {
            loaded: self.0,
            link,
        })
    }
}

/// A registered program; dropping it unregisters it, unless it was pinned.
#[derive(Debug)]
pub struct Registered {
    loaded: Loaded,
    link: Link,
}

impl Registered {
    /// The name that it can be bound by.
    pub fn name(&self) -> &Name {
        &self.loaded.name
    }

    /// Keeps the program and its map in the kernel after this process, until `ubd-bpf unload`.
    pub fn pin(&mut self) -> Result<()> {
        let _lock = pin::Lock::take()?;
        // The name is ours, so these are left-overs.
        pin::remove(&self.loaded.name)?;
        pin::pin(&mut self.loaded, &mut self.link)
    }
}

fn no_array(label: &str) -> Error {
    Error::new(
        Kind::Usage,
        format!(
            "failed to load `{label}` as a cluster map: it has no map `{ARRAY}`; declare one with \
             UBD_CLUSTER_MAP({ARRAY}) of ubd_cluster.h"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::bpf_object;
    use super::*;

    #[test]
    fn a_program_without_a_map_is_told_what_it_lacks() {
        let name = "x".parse().unwrap();
        let linear = Source {
            label: "linear".into(),
            bytes: bpf_object!("linear").into(),
        };
        let err = Clusters::load(&linear, &name, 1, 7).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
        assert!(err.to_string().contains("`cluster_shift`"), "{err}");
    }

    #[test]
    fn the_array_can_be_sized() {
        let name = "x".parse().unwrap();
        let setting = "cluster_shift=9".parse().unwrap();
        let mut opened = Opened::open(&Source::cluster(), Some(&name), &[setting]).unwrap();
        let mut array = opened
            .object
            .maps_mut()
            .find(|map| map.name() == ARRAY)
            .unwrap();
        array.set_max_entries(1 << 20).unwrap();
        assert_eq!(array.max_entries(), 1 << 20);
    }
}
