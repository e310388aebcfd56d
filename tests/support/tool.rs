// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tools as processes whose every end is looked at.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use ubd_bpf::control::CONTROL_NODE;

/// Seconds until a tool that has not ended hangs.
const PATIENCE: &str = "60";

/// `ubd` or `ubd-bpf`.
pub struct Tool(&'static str);

impl Tool {
    /// None where the driver is loaded: these tests mean no harm to its devices.
    pub fn without_driver(exe: &'static str) -> Option<Tool> {
        if Path::new(CONTROL_NODE).exists() {
            println!("not checked: the driver is loaded here");
            return None;
        }
        Some(Tool(exe))
    }

    pub fn run(&self, args: &[impl AsRef<OsStr>]) -> Ended {
        let output = Command::new("timeout")
            .args(["--signal=KILL", PATIENCE, self.0])
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("UBD_LOG")
            .stdin(Stdio::null())
            .output()
            .expect("running the tool");
        Ended(output)
    }
}

/// How a tool ended.
pub struct Ended(Output);

impl Ended {
    /// Its exit status, unless a signal ended it: `timeout` ends as it does.
    pub fn code(&self) -> Option<i32> {
        let status = self.0.status;
        status
            .code()
            .filter(|code| *code < 124 && status.signal().is_none())
    }

    /// A failure says why, in words that are not a panic's.
    pub fn is_well_told(&self) -> Result<(), String> {
        let said = String::from_utf8_lossy(&self.0.stderr);
        let refused = !self.0.status.success();
        match said.contains("panicked") || said.contains("RUST_BACKTRACE") {
            false if !refused || said.len() > 10 => Ok(()),
            _ => Err(format!("{self}")),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = String::from_utf8_lossy(&self.0.stderr);
        let said: String = said.chars().take(2000).collect();
        write!(f, "{}: {said}", self.0.status)
    }
}
