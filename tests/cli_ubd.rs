// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ubd` says, as a transcript: `tests/cli/ubd.txt`.
//!
//! The cases need no driver and no root. `UPDATE=1 cargo test --test cli_ubd` writes the
//! transcript anew; read the difference before you keep it.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

#[path = "cli/transcript.rs"]
mod transcript;

use std::path::Path;
use std::process::Command;
use ubd_bpf::control::CONTROL_NODE;

const UBD: &str = env!("CARGO_BIN_EXE_ubd");

#[test]
fn the_transcript_holds() {
    let cases = [
        "--help",
        "add --help",
        "del --help",
        "list --help",
        "stats --help",
        "features --help",
        "recover --help",
        "upgrade --help",
        "resize --help",
        "serve --help",
        "",
        "add",
        "add tape",
        "add null -t loop",
        "add null -f Cargo.toml",
        "add null -s 1.5G",
        "add null -s 1000",
        "add null -b 1000",
        "add null -q 0",
        "add null --max-io-size 5000",
        "add loop",
        "add loop -f no-such-file",
        "add loop -f src",
        "add loop -f Cargo.toml -s 1G",
        "add loop -f Cargo.toml --offset 100",
        "add loop -f Cargo.toml --offset 1G",
        "add loop -f Cargo.toml -b 8192",
        "add loop -f Cargo.toml --bpf-fastpath linear",
        "add loop -f Cargo.toml --chunk 4K",
        "add loop -f Cargo.toml -f build.rs",
        "add concat",
        "add concat -f LICENSES",
        "add concat -f Cargo.toml",
        "add concat -f Cargo.toml -f src/../Cargo.toml",
        "add concat -f Cargo.toml -f build.rs --offset 4K",
        "add stripe -f Cargo.toml -f build.rs --chunk 5000",
        "add stripe -f Cargo.toml -f build.rs --chunk 2K",
        "del",
        "del -a 3",
        "del /dev/sda",
        "list -o colour",
        "add null --recovery wait",
        "add null --recovery=later",
        "add null --on-daemon-death stop",
        "add null --user-copy --zero-copy",
        "recover",
        "recover /dev/sda",
        "resize 0 most",
        "serve no-such-file",
        "serve README.md",
        "stats --watch=0",
        "man verb",
    ];
    transcript::holds("ubd", UBD, &cases);
}

#[test]
fn a_missing_driver_has_its_own_exit_status() {
    if Path::new(CONTROL_NODE).exists() {
        println!("not checked: the driver is loaded here");
        return;
    }
    for verb in ["list", "stats", "features", "del 0", "add null --recovery"] {
        let output = Command::new(UBD).args(verb.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(69), "{verb}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("modprobe ubd_drv"), "{said}");
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut ubd = Command::new(UBD);
    let output = ubd.args(["man", "add"]).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn man_pages_and_completions_are_whole() {
    for (args, wanted) in [
        (["man", "add"], "sizelimit"),
        (["man", "stats"], "watch"),
        (["man", "add"], ".SH EXAMPLES"),
        (["man", "list"], ".SH \"EXIT STATUS\""),
        (["man", "del"], ".SH FILES"),
        (["man", "upgrade"], ".SH EXAMPLES"),
        (["completions", "bash"], "--sizelimit"),
        (["completions", "zsh"], "sizelimit"),
    ] {
        let output = Command::new(UBD).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        let text = String::from_utf8(output.stdout)
            .unwrap()
            .replace("\\-", "-");
        assert!(text.contains(wanted), "{args:?}:\n{text}");
    }
}
