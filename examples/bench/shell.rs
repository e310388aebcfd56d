// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands in the guest.

use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};

/// Runs a script with `bash -e`; gives its standard output, or an error with all that it said.
pub fn sh(script: impl AsRef<str>) -> Result<String> {
    let script = script.as_ref();
    let out = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", script])
        .stdin(Stdio::null())
        .output()
        .context("failed to run bash")?;
    let stdout = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{script}` ended with {}\n{stdout}{stderr}", out.status);
    }
    Ok(stdout.trim_end().to_owned())
}
