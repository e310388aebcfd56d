// SPDX-License-Identifier: MIT OR Apache-2.0
//! A shell for what must not wait for a device.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use anyhow::{bail, Context, Result};

/// A new process has all open files of the old one until it runs its program. If these are closed in
/// the old one meanwhile, the new one is the last to close them; to close a disk that somebody is
/// looking for partitions on takes until that is done, and on a disk whose daemon is dead that is
/// until the next one serves it. Who brings the next one must not wait for that. So this shell has
/// been started before.
pub struct Standby {
    shell: Mutex<Shell>,
}

struct Shell {
    child: Child,
    scripts: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// An answer is the exit code, the output and a NUL.
const LOOP: &str = r#"
while IFS= read -r -d '' script; do
    said=$(timeout --signal=KILL 900 bash -e -o pipefail -c "$script" 2>&1 </dev/null)
    printf '%s %s\0' $? "$said"
done"#;

impl Standby {
    pub fn start() -> Result<Standby> {
        let mut child = Command::new("bash")
            .args(["-c", LOOP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run bash")?;
        let (Some(scripts), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("bash has no pipes");
        };
        Ok(Standby {
            shell: Mutex::new(Shell {
                child,
                scripts,
                answers: BufReader::new(answers),
            }),
        })
    }

    /// As `sh()`; what comes out on both ways is the output.
    pub fn sh(&self, script: &str) -> Result<String> {
        // One script at a time: an answer does not say whose it is.
        let mut shell = self.shell.lock().expect("nobody has panicked");
        write!(shell.scripts, "{script}\0").context("the standing shell is gone")?;
        let mut answer = Vec::new();
        shell.answers.read_until(0, &mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let answer = answer.trim_end_matches('\0').split_once(' ');
        match answer.context("the standing shell is gone")? {
            ("0", said) => Ok(said.to_owned()),
            (code, said) => bail!("`{script}` ended with {code}\n{said}"),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
