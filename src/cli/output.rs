// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tools print: to stdout what was asked for, to stderr what failed.

use crate::error::{chain, Error};
use anyhow::Context;
use serde_json::{json, Value};
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Whoever read our stdout has read enough: an end, not a failure.
#[derive(Debug)]
struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads stdout any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Another process has told what failed, and ended with this status.
#[derive(Debug)]
pub struct Told(pub u8);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a process ended with status {}", self.0)
    }
}

impl std::error::Error for Told {}

/// Prints text that has its line ends.
pub fn text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        done => done.context("failed to write to stdout"),
    }
}

/// Prints one line.
pub fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints `value` under `key` as JSON in one line, beside the version of the format.
pub fn document(key: &str, value: Value) -> anyhow::Result<()> {
    line(&json!({ "version": 1, key: value }).to_string())
}

/// Ends the tool `program`: tells what failed, and gives the exit status.
pub fn finish(program: &str, result: anyhow::Result<()>) -> ExitCode {
    end(program, result).into()
}

/// The same with a plain number.
pub fn end(program: &str, result: anyhow::Result<()>) -> u8 {
    let Err(err) = result else {
        return 0;
    };
    if err.is::<ReaderGone>() {
        return 0;
    }
    if let Some(Told(status)) = err.downcast_ref() {
        return *status;
    }
    complain(program, err.as_ref());
    status(&err)
}

/// Tells on stderr what failed.
pub fn complain(program: &str, err: &(dyn std::error::Error + 'static)) {
    eprintln!("{program}: {}", chain(err));
}

/// The exit status that `err` asks for. Where the command line alone is wrong, it has no kind.
fn status(err: &anyhow::Error) -> u8 {
    err.chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
        .map_or(2, |err| err.kind().exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_exit_status_survives_more_context() {
        let err = Error::new(Kind::DriverMissing, "no driver");
        let err = anyhow::Error::from(err).context("failed to do this");
        assert_eq!(status(&err.context("and that")), 69);
        assert_eq!(status(&anyhow::anyhow!("--this goes not with --that")), 2);
    }
}
