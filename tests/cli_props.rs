// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tools and command lines that nobody means: an exit status of the documented ones, a reason,
//! no panic, no hang.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that fails, panics"
)]

#[path = "support/seed.rs"]
mod seed;
#[path = "support/tool.rs"]
mod tool;

use fastrand::Rng;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use tool::Tool;

/// What follows a verb or an option.
#[derive(Debug, Clone, Copy)]
enum Value {
    None,
    Size,
    Number,
    Device,
    File,
    Word,
    Setting,
}

use Value::{Device, File, None, Number, Setting, Size, Word};

type Options = &'static [(&'static str, Value)];

/// The verbs, what they are given, and their options.
const UBD: &[(&str, &[Value], Options)] = &[
    ("add", &[Word], ADD),
    ("add loop", &[], ADD),
    ("add concat", &[], ADD),
    ("add stripe", &[], ADD),
    ("add null", &[], ADD),
    (
        "del",
        &[Device],
        &[
            ("-a", None),
            ("--all", None),
            ("--async", None),
            ("--force", None),
            ("-n", Number),
        ],
    ),
    ("recover", &[Device], &[("--foreground", None)]),
    ("upgrade", &[Device], &[("--timeout", Number)]),
    ("resize", &[Device, Size], &[]),
    ("serve", &[File], &[]),
    (
        "list",
        &[Device],
        &[
            ("-o", Word),
            ("--noheadings", None),
            ("--raw", None),
            ("-J", None),
        ],
    ),
    (
        "stats",
        &[Device],
        &[("-J", None), ("--watch=0", None), ("-o", Word)],
    ),
    ("features", &[], &[("-J", None)]),
    ("man", &[Word], &[]),
    ("completions", &[Word], &[]),
];

const ADD: Options = &[
    ("-t", Word),
    ("-n", Number),
    ("-q", Number),
    ("-d", Number),
    ("--max-io-size", Size),
    ("-b", Size),
    ("--bpf-fastpath", None),
    ("--forward", None),
    ("--recovery", None),
    ("--on-daemon-death", Word),
    ("--user-copy", None),
    ("--zero-copy", None),
    ("--show", None),
    ("--foreground", None),
    ("-s", Size),
    ("-f", File),
    ("-f", File),
    ("-r", None),
    ("--direct-io", None),
    ("--offset", Size),
    ("--sizelimit", Size),
    ("--chunk", Size),
];

const UBD_BPF: &[(&str, &[Value], Options)] = &[
    (
        "load",
        &[File],
        &[
            ("--name", Word),
            ("--set", Setting),
            ("--set", Setting),
            ("--replace", None),
        ],
    ),
    (
        "load",
        &[Word],
        &[("--name", Word), ("--set", Setting), ("--set", Setting)],
    ),
    ("list", &[], &[("-J", None)]),
    ("show", &[Word], &[("-J", None)]),
    ("unload", &[Word], &[]),
    ("bind", &[Device, Word], &[("--cookie", Number)]),
    ("unbind", &[Device], &[]),
    (
        "test",
        &[Word],
        &[
            ("--op", Word),
            ("--sector", Number),
            ("--nr", Number),
            ("--cookie", Number),
            ("--nr-slots", Number),
            ("--slot-sectors", Number),
            ("--block-size", Number),
            ("--set", Setting),
            ("-J", None),
        ],
    ),
    (
        "slot add",
        &[Device, File],
        &[
            ("--slot", Number),
            ("--offset", Size),
            ("--size", Size),
            ("-r", None),
            ("--direct", None),
        ],
    ),
    ("slot del", &[Device, Number], &[]),
    ("slot list", &[Device], &[("-J", None)]),
    ("man", &[Word], &[]),
    ("completions", &[Word], &[]),
];

const SIZES: [&str; 18] = [
    "0",
    "1",
    "511",
    "512",
    "4096",
    "4K",
    "4KiB",
    "1GB",
    "1.5G",
    "-1",
    "",
    "K",
    "0x1000",
    "18446744073709551615",
    "18446744073709551616",
    "16E",
    "9999999999E",
    "٤K",
];
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "8",
    "-1",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "0xffffffffffffffff",
    "1e3",
    "eight",
];
const DEVICES: [&str; 12] = [
    "0",
    "1000",
    "4294967295",
    "4294967296",
    "/dev/ubdb0",
    "/dev/ubdb",
    "/dev/ubdb-1",
    "/dev/ubdb99999999999",
    "/dev/../dev/ubdb1",
    "ubdb1",
    "/dev/null",
    "💾",
];
const FILES: [&str; 12] = [
    "Cargo.toml",
    "README.md",
    "LICENSES",
    "/",
    "",
    "no-such-file",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "Cargo.toml/x",
    "a\nb",
    "FIFO",
];
const WORDS: [&str; 18] = [
    "linear",
    "concat",
    "stripe",
    "null",
    "loop",
    "all",
    "write",
    "bash",
    "id",
    "id,state,id",
    ",",
    "",
    ".",
    "..",
    "a/b",
    "sixteen-letters!",
    "\u{202e}drow",
    "-",
];
const SETTINGS: [&str; 14] = [
    "linear_offset=1",
    "linear_offset=-1",
    "linear_offset=99999999999999999999",
    "slot_len[63]=1",
    "slot_len[64]=1",
    "slot_len[18446744073709551615]=1,2",
    "slot_len=1,2,3,",
    "x=",
    "=1",
    "[0]=1",
    "x[=1",
    "nr=true",
    "linear_offset=0xffffffffffffffffffffffffffffffff",
    "é=1",
];

fn value(value: Value, fifo: &Path, rng: &mut Rng) -> OsString {
    let list: &[&str] = match value {
        Size => &SIZES,
        Number => &NUMBERS,
        Device => &DEVICES,
        File => &FILES,
        Word => &WORDS,
        Setting => &SETTINGS,
        None => &[""],
    };
    match rng.u32(0..40) {
        0 => OsString::from_vec(vec![0xff, 0xfe, b'x']),
        1 => "7".repeat(rng.usize(1..20_000)).into(),
        2 => char::from_u32(rng.u32(1..0xd800))
            .unwrap_or('x')
            .to_string()
            .into(),
        _ => match list[rng.usize(..list.len())] {
            "FIFO" => fifo.into(),
            text => text.into(),
        },
    }
}

/// A verb with what it wants, more or less, and options.
fn line(verbs: &[(&str, &[Value], Options)], fifo: &Path, rng: &mut Rng) -> Vec<OsString> {
    let (verb, wanted, options) = verbs[rng.usize(..verbs.len())];
    // Who reads from a pipe waits for a writer, as everybody does.
    let fifo = if verb.starts_with("add") {
        fifo
    } else {
        Path::new("no-such-pipe")
    };
    let mut line: Vec<OsString> = verb.split(' ').map(OsString::from).collect();
    for &what in wanted {
        if rng.u32(0..10) > 0 {
            line.push(value(what, fifo, rng));
        }
    }
    for _ in 0..rng.u32(0..6) {
        let Option::Some(&(option, what)) = options.get(rng.usize(..options.len().max(1))) else {
            break;
        };
        line.push(option.into());
        if !matches!(what, None) {
            line.push(value(what, fifo, rng));
        }
    }
    match rng.u32(0..30) {
        0 => line.push("--no-such-option".into()),
        1 => line.push("--help".into()),
        2 => line.push("-vv".into()),
        3 => line.truncate(1),
        _ => {}
    }
    line
}

fn any_line(name: &str, exe: &'static str, verbs: &[(&str, &[Value], Options)]) {
    let Option::Some(tool) = Tool::without_driver(exe) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let first = seed::seed(name);
    let count = if seed::long() { 50_000 } else { 400 };
    for number in 0..count {
        let seed = first.wrapping_add(number);
        let args = line(verbs, &fifo, &mut Rng::with_seed(seed));
        let ended = tool.run(&args);
        assert!(
            matches!(ended.code(), Some(0 | 1 | 2 | 69 | 77)),
            "UBD_SEED={seed}: {name} {args:?}: {ended}"
        );
        ended
            .is_well_told()
            .unwrap_or_else(|why| panic!("UBD_SEED={seed}: {name} {args:?}: {why}"));
    }
}

#[test]
fn any_line_of_ubd_is_answered() {
    any_line("ubd", env!("CARGO_BIN_EXE_ubd"), UBD);
}

#[test]
fn any_line_of_ubd_bpf_is_answered() {
    any_line("ubd-bpf", env!("CARGO_BIN_EXE_ubd-bpf"), UBD_BPF);
}
