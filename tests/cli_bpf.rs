// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ubd-bpf` says, as a transcript: `tests/cli/ubd-bpf.txt`.
//!
//! The cases need no driver and no root. `UPDATE=1 cargo test --test cli_bpf` writes the
//! transcript anew; read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

#[path = "cli/transcript.rs"]
mod transcript;

const CASES: [&str; 19] = [
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
    "slot add 0 no-such-file",
    "man slot nothing",
];

#[test]
fn the_transcript_holds() {
    transcript::holds("ubd-bpf", env!("CARGO_BIN_EXE_ubd-bpf"), &CASES);
}
