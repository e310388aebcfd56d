// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BPF side: mapping programs on their way into the driver and out of it.
//!
//! ```text
//! Source ──open──► Opened ──load──► Loaded ──attach──► Link ──pin──► /sys/fs/bpf/ubd/NAME/
//! (bytes)  names,            verifier        driver
//!          settings
//! ```
//!
//! A program that is registered can be bound to devices, with
//! [`crate::control::Control::bind`].

mod cluster;
mod loaded;
mod name;
mod opened;
mod output;
mod own;
mod pin;
mod registry;
mod set;
mod source;
mod vars;
mod verdict;

pub use cluster::{Clusters, Registered};
pub use loaded::Loaded;
pub use name::Name;
pub use opened::Opened;
pub use own::{is_own, own_name, unload_own, Own};
pub use registry::{ensure_loaded, load, program, programs, unload, Outcome, Part, Program};
pub use set::{Setting, Value};
pub use source::Source;
pub use verdict::{ask, ask_object, errno_name, Answer, Question, Verdict};

/// A program that comes with the library.
#[derive(Debug, PartialEq, Eq)]
pub struct Shipped {
    /// The name that it registers under.
    pub name: &'static str,
    /// The object file.
    pub bytes: &'static [u8],
}

/// The object file of a program in `bpf/`, as the build script compiled it.
macro_rules! bpf_object {
    ($file:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/bpf/", $file, ".bpf.o"))
    };
}
#[cfg(test)]
pub(crate) use bpf_object;

static SHIPPED: [Shipped; 3] = [
    Shipped {
        name: "linear",
        bytes: bpf_object!("linear"),
    },
    Shipped {
        name: "concat",
        bytes: bpf_object!("concat"),
    },
    Shipped {
        name: "stripe",
        bytes: bpf_object!("stripe"),
    },
];

/// The programs that come with the library.
pub fn shipped() -> &'static [Shipped] {
    &SHIPPED
}

impl Shipped {
    /// The shipped program of that name.
    pub fn find(name: &str) -> Option<&'static Shipped> {
        SHIPPED.iter().find(|shipped| shipped.name == name)
    }
}
