// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ubd-bpf` says, as a transcript: `tests/cli/ubd-bpf.txt`.
//!
//! The cases need no driver and no root. `UPDATE=1 cargo test --test cli_bpf` writes the
//! transcript anew; read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

use std::path::Path;
use std::process::Command;

const CASES: [&str; 17] = [
    "--help",
    "load --help",
    "test --help",
    "slot add --help",
    "",
    "load no-such-file.o",
    "load Cargo.toml",
    "load linear --name a/b",
    "load linear --set nonsense",
    "load linear --set nope=1",
    "load linear --set linear_offset=-1",
    "load linear --set linear_offset=1,2",
    "load concat --set slot_len[64]=1",
    "bind /dev/sda linear",
    "test linear --set linear_offset=1",
    "test linear --block-size 4096 --sector 1",
    "slot add 0 Cargo.toml --offset 100",
];

#[test]
fn the_transcript_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/cli/ubd-bpf.txt");
    let transcript: String = CASES.iter().map(|case| play(root, case)).collect();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &transcript).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    for (got, want) in transcript.lines().zip(wanted.lines()) {
        assert_eq!(got, want, "in:\n{transcript}");
    }
    assert_eq!(transcript.lines().count(), wanted.lines().count());
}

/// One command with its output and, unless it is 0, its exit status.
fn play(root: &Path, case: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ubd-bpf"))
        .args(case.split_whitespace())
        .current_dir(root)
        .env_remove("UBD_LOG")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    let mut text = format!("$ ubd-bpf {case}").trim_end().to_string() + "\n";
    for stream in [&output.stdout, &output.stderr] {
        for line in std::str::from_utf8(stream).unwrap().lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    match output.status.code().unwrap() {
        0 => (),
        code => text.push_str(&format!("[exit status {code}]\n")),
    }
    text + "\n"
}
