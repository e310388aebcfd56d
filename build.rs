// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles the BPF programs of `bpf/` (which ship inside the library) and of `tests/bpf/`.
//!
//! The objects go to `$OUT_DIR/bpf/` and, for people and tests, to `target/bpf/`:
//! `linear.bpf.o`, `tests/*.bpf.o`, `tests/reject/*.bpf.o`. Environment: `CLANG` names the compiler.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libbpf_cargo::SkeletonBuilder;

/// Directories of sources, and where their objects go.
const SOURCES: [(&str, &str); 3] = [
    ("bpf", ""),
    ("tests/bpf", "tests"),
    ("tests/bpf/reject", "tests/reject"),
];

/// The first clang whose BPF objects are good enough for struct_ops in a module.
const MIN_CLANG: u32 = 15;
/// The newest versioned name looked for; plain `clang` may be newer.
const MAX_CLANG: u32 = 30;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(err) = run() {
        eprintln!("error: {err}");
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    println!("cargo:rerun-if-env-changed=CLANG");
    println!("cargo:rerun-if-env-changed=PATH");
    let clang = find_clang()?;
    let args = clang_args()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // …/target/<profile>/build/<package>/out
    let target = out
        .ancestors()
        .nth(4)
        .ok_or("OUT_DIR is not below target/")?;

    for (dir, sub) in SOURCES {
        // A directory stands for its headers too, and for files that come and go.
        println!("cargo:rerun-if-changed={dir}");
        let mut names = Vec::new();
        for source in programs(dir)? {
            let name = Path::new("bpf").join(sub).join(object_name(&source)?);
            let object = out.join(&name);
            compile(&clang, &args, &source, &object)?;
            publish(&object, &target.join(&name))?;
            names.push(name);
        }
        remove_others(&target.join("bpf").join(sub), target, &names)?;
    }
    Ok(())
}

fn programs(dir: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|err| format!("failed to read {dir}: {err}"))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".bpf.c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `bpf/linear.bpf.c` → `linear.bpf.o`
fn object_name(source: &Path) -> Result<PathBuf> {
    let name = source.file_name().ok_or("a source without a name")?;
    Ok(Path::new(name).with_extension("o"))
}

fn compile(clang: &str, args: &[String], source: &Path, object: &Path) -> Result<()> {
    if let Some(dir) = object.parent() {
        fs::create_dir_all(dir)?;
    }
    SkeletonBuilder::new()
        .source(source)
        .obj(object)
        .clang(clang)
        .clang_args(args)
        .build()
        .map_err(|err| format!("{err:#}"))?;
    Ok(())
}

/// Copies an object to its public place in one step, and only when it differs: builds of several
/// profiles share that place.
fn publish(object: &Path, place: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed={}", place.display());
    let bytes = fs::read(object)?;
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = place.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, place)?;
    Ok(())
}

/// Removes published objects whose source has gone, so that nobody tests an old program.
fn remove_others(dir: &Path, target: &Path, names: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let known = names.iter().any(|name| target.join(name) == path);
        if path.to_string_lossy().ends_with(".bpf.o") && !known {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn clang_args() -> Result<Vec<String>> {
    let mut args: Vec<String> = ["-Ibpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]
        .map(String::from)
        .to_vec();
    // BPF_PROG() makes a function whose context nobody need use.
    args.push("-Wno-unused-parameter".into());
    // Debian keeps asm/ in a directory that clang does not search for the bpf target.
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        args.push(format!("-idirafter{multiarch}"));
    }
    Ok(args)
}

fn find_clang() -> Result<String> {
    if let Ok(clang) = env::var("CLANG") {
        return match clang_version(&clang) {
            Some(version) if version >= MIN_CLANG => Ok(clang),
            Some(version) => Err(format!(
                "CLANG={clang} is version {version}, but BPF programs need clang {MIN_CLANG} or newer"
            )
            .into()),
            None => Err(format!("CLANG={clang} does not run").into()),
        };
    }
    let versioned = (MIN_CLANG..=MAX_CLANG).rev().map(|v| format!("clang-{v}"));
    std::iter::once("clang".to_string())
        .chain(versioned)
        .find(|clang| clang_version(clang).is_some_and(|version| version >= MIN_CLANG))
        .ok_or_else(|| {
            format!(
                "failed to find clang {MIN_CLANG} or newer, which compiles the BPF programs; \
                 install it (Debian 12: `apt-get install clang-19`, later: `clang`) \
                 or name it in the environment variable CLANG"
            )
            .into()
        })
}

fn clang_version(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.split('.').next()?.trim().parse().ok()
}
