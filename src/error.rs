// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one error type of the library.
//!
//! An [`Error`] is made for the person who reads it: its text says what failed,
//! on what and what to do, and its [`Kind`] decides the exit code of the tools.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// `Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of thing went wrong; decides the exit code.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The named device, program, slot or file does not exist.
    NotFound,
    /// The request makes no sense as it was given.
    Usage,
    /// Somebody holds what is to be changed.
    Busy,
    /// The name or number is taken.
    Exists,
    /// The caller may not do this.
    Permission,
    /// The ubd driver is not there.
    DriverMissing,
    /// The kernel, the driver or the backing cannot do this.
    Unsupported,
    /// The verifier refused a program.
    Rejected,
    /// A system call or an I/O failed.
    Io,
    /// The other side answered something that the protocol does not allow.
    Protocol,
}

impl Kind {
    /// The exit code of a tool that fails with this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::NotFound => 1,
            Kind::DriverMissing => 69,
            Kind::Permission => 77,
            _ => 2,
        }
    }

    fn of_errno(errno: i32) -> Kind {
        match errno {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Kind::NotFound,
            libc::EPERM | libc::EACCES => Kind::Permission,
            libc::EBUSY => Kind::Busy,
            libc::EEXIST => Kind::Exists,
            libc::EOPNOTSUPP | libc::ENOSYS => Kind::Unsupported,
            _ => Kind::Io,
        }
    }
}

/// An error with its kind, its context and what caused it.
///
/// `{}` prints the context alone, `{:#}` the context and its causes.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Error {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// An error caused by a failed system call; the errno gives the kind.
    pub fn os(context: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = source.raw_os_error().map_or(Kind::Io, Kind::of_errno);
        Error {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// An error of the given kind caused by `source`.
    pub fn caused_by(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// What sort of error this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error with another kind, where the errno alone misleads.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The errno of the system call that caused this, if one did.
    pub fn errno(&self) -> Option<i32> {
        self.source
            .as_ref()?
            .downcast_ref::<io::Error>()?
            .raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            f.write_str(&chain(self))
        } else {
            f.write_str(&self.context)
        }
    }
}

/// An error and its causes in one line, for people.
pub fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in std::iter::successors(Some(err), |err| err.source()) {
        let cause = cause.to_string();
        // "(os error 13)" tells people nothing.
        let end = cause.find(" (os error").unwrap_or(cause.len());
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause[..end]);
    }
    text
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|err| err as _)
    }
}

/// Gives the error of a system call its context.
pub trait Context<T> {
    /// Turns a failed system call into an [`Error`] that says what was tried.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|err| Error::os(what(), err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let code = |errno| {
            Error::os("x", io::Error::from_raw_os_error(errno))
                .kind()
                .exit_code()
        };
        assert_eq!(code(libc::ENODEV), 1);
        assert_eq!(code(libc::EINVAL), 2);
        assert_eq!(code(libc::EACCES), 77);
        assert_eq!(Kind::DriverMissing.exit_code(), 69);
    }

    #[test]
    fn the_alternate_form_names_the_cause_once() {
        let err = Error::os(
            "failed to open `x`",
            io::Error::from_raw_os_error(libc::EACCES),
        );
        assert_eq!(format!("{err}"), "failed to open `x`");
        assert_eq!(format!("{err:#}"), "failed to open `x`: Permission denied");
    }
}
