// SPDX-License-Identifier: MIT OR Apache-2.0
//! Playing commands and comparing what they say with a transcript.

use std::path::Path;
use std::process::Command;

/// Plays `cases` with the program `exe`, called `name`, and compares with
/// `tests/cli/NAME.txt`; with `UPDATE` in the environment, writes it anew.
pub fn holds(name: &str, exe: &str, cases: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("tests/cli/{name}.txt"));
    let transcript: String = cases
        .iter()
        .map(|case| play(root, name, exe, case))
        .collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &transcript).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    for (got, want) in transcript.lines().zip(wanted.lines()) {
        assert_eq!(got, want, "in:\n{transcript}");
    }
    assert_eq!(transcript.lines().count(), wanted.lines().count());
}

/// One command with its output and, unless it is 0, its exit status. The
/// repository's place is written as `REPO`.
fn play(root: &Path, name: &str, exe: &str, case: &str) -> String {
    let output = Command::new(exe)
        .args(case.split_whitespace())
        .current_dir(root)
        .env_remove("UBD_LOG")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let mut text = format!("$ {name} {case}").trim_end().to_owned() + "\n";
    for stream in [&output.stdout, &output.stderr] {
        for line in std::str::from_utf8(stream).unwrap().lines() {
            text.push_str(line.replace(root.to_str().unwrap(), "REPO").trim_end());
            text.push('\n');
        }
    }
    match output.status.code().unwrap() {
        0 => (),
        code => text.push_str(&format!("[exit status {code}]\n")),
    }
    text + "\n"
}
