// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands in the guest.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{bail, Context, Result};

use super::slowness;

/// Bash takes a variable of this name for a function.
const SETTLE: (&str, &str) = (
    "BASH_FUNC_settle%%",
    concat!("() {\n", include_str!("settle.sh"), "}"),
);

/// `before` are words that start bash. `settle` in the script waits until udev has done its work.
fn bash(before: &[&str], script: &str) -> Command {
    let words = [before, &["bash", "-e", "-o", "pipefail", "-c", script]].concat();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env(SETTLE.0, SETTLE.1)
        .env("PATIENCE", (60 * slowness()).to_string())
        .stdin(Stdio::null());
    command
}

/// One that does not end is killed before the whole run is given up, to tell which it was.
fn output(script: &str) -> Result<Output> {
    bash(&["timeout", "--signal=KILL", "900"], script)
        .output()
        .context("failed to run bash")
}

/// Runs a script with `bash -e`; gives its standard output without the last newline, or an error
/// with all of its output.
pub fn sh(script: impl AsRef<str>) -> Result<String> {
    let script = script.as_ref();
    let out = output(script)?;
    let stdout = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{script}` ended with {}\n{}{}", out.status, stdout, stderr);
    }
    Ok(stdout.trim_end().to_owned())
}

/// Runs a script that must fail with exit code `code`; gives its standard error.
pub fn fails(code: i32, script: impl AsRef<str>) -> Result<String> {
    let script = script.as_ref();
    let out = output(script)?;
    let stderr = String::from_utf8_lossy(&out.stderr).trim_end().to_owned();
    if out.status.code() != Some(code) {
        bail!(
            "`{script}` ended with {} instead of {code}\n{stderr}",
            out.status
        );
    }
    Ok(stderr)
}

/// A script that runs beside the test; killed, with its children, when dropped.
pub struct Background {
    script: String,
    child: Child,
    output: File,
}

impl Background {
    pub fn start(script: impl Into<String>) -> Result<Background> {
        use std::os::unix::process::CommandExt;
        let script = script.into();
        let output = tempfile::tempfile().context("failed to make a temporary file")?;
        let child = bash(&[], &script)
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()
            .context("failed to run bash")?;
        Ok(Background {
            script,
            child,
            output,
        })
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; an error when it failed. Gives all of its output.
    pub fn finish(mut self) -> Result<String> {
        let status = self.child.wait().context("failed to wait for bash")?;
        let mut text = String::new();
        self.output.rewind()?;
        self.output.read_to_string(&mut text)?;
        if !status.success() {
            bail!("`{}` ended with {status}\n{text}", self.script);
        }
        Ok(text)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            // SAFETY: the group is the child's own, and it has not been reaped.
            unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}
