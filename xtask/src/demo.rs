// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`: what ubd does, on real data. The story itself is `examples/demo`, which
//! runs in the machine; here are its image and the two machines that it needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Result};
use clap::Args;

use crate::guest::Guest;
use crate::host;
use crate::kernel::Kernel;
use crate::progress::step;
use crate::{cache, programs, qemu, vm};

/// What the image holds of the guest's own tree: documentation and toolchain, some 4 600 files
/// of 230 MB.
const DIRECTORIES: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/include",
    "usr/lib/gcc",
    "usr/libexec",
    "usr/bin",
];

/// Room for the tree and for what the demo writes.
const IMAGE_SIZE: &str = "400M";

/// Where the copy of the image that is a file lives.
const SCRATCH_SIZE: &str = "1G";

/// An emulated machine on a busy host takes minutes; longer means that it hangs.
const PATIENCE_SECONDS: u64 = 1800;

/// $1: the tree, $2: the result's directory, $3: size, $4: mke2fs, the rest: directories of the
/// tree. The sums are those of the source, not of what mke2fs was given.
const MAKE_IMAGE: &str = r#"
set -e
export LC_ALL=C
tree=$1 out=$2 size=$3 mke2fs=$4
shift 4
mkdir "$out/stage"
(cd "$tree" && cp -a --parents "$@" "$out/stage")
"$mke2fs" -q -t ext4 -L ubd-demo -d "$out/stage" "$out/image.ext4" "$size"
rm -r "$out/stage"
cd "$tree"
find "$@" -type f -print0 | sort -z | xargs -0 sha256sum >"$out/manifest"
"#;

/// `cargo xtask demo`
#[derive(Args)]
pub struct DemoArgs {}

/// Tells the story; 1 if something in it is not so.
pub fn command(kernel: &Kernel, _args: DemoArgs) -> Result<u8> {
    let image = image(&kernel.rootfs)?;
    let demo = programs::example("demo")?;

    let story = vm::with_ubd(Guest::new()?, kernel)?;
    story.program(&demo)?;
    story.copy(&image.join("manifest"), "manifest")?;
    // The machine makes its disks as long as it is told to; this one is not empty then.
    let disk = qemu::disk_path(&story, 0);
    host::output(
        Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(image.join("image.ext4"))
            .arg(&disk),
    )?;
    let disks = [IMAGE_SIZE, SCRATCH_SIZE];
    let words = "demo story /dev/vda /dev/vdb /ubd/run/manifest /ubd/out/rows.json";
    eprintln!("xtask: starting a machine with ubd ...");
    if run(kernel, &story, &disks, false, words)? != 0 {
        return Ok(1);
    }

    let cost = vm::with_ubd(Guest::new()?, kernel)?;
    cost.program(&demo)?;
    cost.copy(&story.dir.join("out/rows.json"), "rows.json")?;
    eprintln!("xtask: starting a machine that counts instructions ...");
    if run(kernel, &cost, &[], true, "demo cost /ubd/run/rows.json")? != 0 {
        return Ok(1);
    }
    println!("{NEXT}");
    Ok(0)
}

const NEXT: &str = "
The next thing to try:
  cargo xtask vm                a shell in such a machine: `insmod $UBD_KO`, then `ubd add --help`
  docs/writing-a-program.md     your own mapping, from an empty file to a bound program
  README.md                     ubd on this machine instead of a virtual one";

fn run(kernel: &Kernel, guest: &Guest, disks: &[&str], icount: bool, words: &str) -> Result<u8> {
    let machine = vm::Machine {
        icount,
        disks: disks.iter().map(|size| size.to_string()).collect(),
        timeout: Some(PATIENCE_SECONDS),
        ..vm::Machine::usual()
    };
    let words: Vec<_> = words.split(' ').map(Into::into).collect();
    vm::run(kernel, &machine, guest, &words)
}

/// The directory with `image.ext4` and `manifest`, made on first use.
fn image(tree: &Path) -> Result<PathBuf> {
    let Some(mke2fs) = host::find_program(&["mke2fs"]) else {
        bail!(
            "failed to find `mke2fs`, which makes the demo's image; install the package e2fsprogs"
        );
    };
    let tree_name = tree.to_string_lossy();
    let key = cache::key([&[MAKE_IMAGE, IMAGE_SIZE, &tree_name], DIRECTORIES].concat());
    cache::entry("demo-image", &key, |dir| {
        step(
            "filling an ext4 image with documentation and toolchain",
            || {
                let mut command = Command::new("sh");
                command
                    .args(["-c", MAKE_IMAGE, "sh"])
                    .args([tree, dir, Path::new(IMAGE_SIZE), &mke2fs])
                    .args(DIRECTORIES);
                host::output(&mut command).map(drop)
            },
        )
    })
}
