// SPDX-License-Identifier: MIT OR Apache-2.0
//! What others test file systems with, on a device: fsx, and the file system stressors of
//! stress-ng. Mapped, declined and forwarded; every run says how much of each there was, and ends
//! with a check of the file system through the device and on the backing.

use anyhow::{ensure, Context, Result};

use crate::support::mount::Mount;
use crate::support::tree::{Kind, EXT4, XFS};
use crate::support::{
    growth, is_long, long_only, sh, slowness, Counters, NullDisk, RamDisk, Test, Ubd,
};

pub const TESTS: &[Test] = &[
    Test::new("suites/ext4_mapped", || on_a_disk(&EXT4, Path::Mapped)),
    Test::new("suites/ext4_declined", || {
        long_only(|| on_a_disk(&EXT4, Path::Declined))
    }),
    Test::new("suites/ext4_forwarded", || {
        long_only(|| on_a_disk(&EXT4, Path::Forwarded))
    }),
    Test::new("suites/xfs_declined", || on_a_disk(&XFS, Path::Declined)),
    Test::new("suites/xfs_mapped_to_a_file", xfs_on_a_file),
];

/// Who serves the device.
#[derive(Clone, Copy)]
enum Path {
    Mapped,
    Declined,
    Forwarded,
}

impl Path {
    fn options(self) -> &'static str {
        match self {
            Path::Mapped => "-q 2 --bpf-fastpath",
            Path::Declined => "-q 2",
            Path::Forwarded => "-q 2 --forward",
        }
    }

    /// The data went this way, and no other.
    fn was_taken(self, count: &Counters) -> Result<()> {
        let sectors =
            |path| count[&format!("read_{path}_sectors")] + count[&format!("write_{path}_sectors")];
        let (mapped, declined, forwarded) =
            (sectors("mapped"), sectors("declined"), sectors("forwarded"));
        let much = MUCH / u64::from(slowness());
        let right = match self {
            Path::Mapped => mapped > much && declined == 0,
            Path::Declined => declined > much && mapped == 0 && forwarded == 0,
            Path::Forwarded => declined > much && forwarded == declined && mapped == 0,
        };
        ensure!(right, "another way was taken: {}", count.summary());
        ensure!(
            count["bad"] == 0 && count["error"] == 0,
            "{}",
            count.summary()
        );
        ensure!(
            count["flush_mapped"] + count["flush_declined"] > 0,
            "no flush: {}",
            count.summary()
        );
        Ok(())
    }
}

/// Sectors that a run moves at least, where the kernel is not a slow one: it ends by the clock.
const MUCH: u64 = 20_000;

/// Random reads, writes, truncations, mappings, holes, copies of one file, each read compared with
/// what should be there: through the page cache, and past it.
fn fsx(dir: &str) -> Result<()> {
    let count = if is_long() { 200_000 } else { 600 / slowness() };
    sh(format!(
        "printf '[weights]\\nclose_open = 1\\ninvalidate = 1\\ntruncate = 1\\nfsync = 1\\n\
         fdatasync = 1\\npunch_hole = 1\\nposix_fallocate = 1\\nread = 10\\nwrite = 10\\n\
         mapread = 5\\nmapwrite = 5\\ncopy_file_range = 1\\n' > /tmp/fsx.toml
         cd {dir}
         for seed in 1 2; do fsx -f /tmp/fsx.toml -S $seed -N {count} {dir}/fsx-$seed; done
         rm -f {dir}/fsx-*"
    ))
    .context("fsx")?;
    Ok(())
}

/// All at once, with their own checks of what they read.
fn stress(dir: &str) -> Result<()> {
    let seconds = if is_long() { 600 } else { 3 * slowness() };
    let stressors = "--hdd 1 --hdd-bytes 8M --hdd-opts direct,wr-rnd,rd-rnd,fsync --aio 1 \
                     --seek 1 --seek-size 8M --fallocate 1 --fallocate-bytes 8M \
                     --iomix 1 --iomix-bytes 8M --revio 1 --revio-bytes 8M --io-uring 1 \
                     --rename 1 --link 1 --dir 1 --dir-dirs 64";
    sh(format!(
        "stress-ng --temp-path {dir} --verify --timeout {seconds} --no-rand-seed {stressors}"
    ))
    .context("stress-ng")?;
    Ok(())
}

/// Both suites on `kind`, made on the device; then its checks.
fn run(kind: &Kind, ubd: &Ubd, path: Path) -> Result<()> {
    let mount = Mount::make(kind.mkfs, &ubd.node())?;
    let dir = mount.dir().display().to_string();
    let count = growth(ubd, || {
        fsx(&dir)?;
        stress(&dir)?;
        sh("sync").map(drop)
    })?;
    println!("{}", count.summary());
    path.was_taken(&count)?;
    mount.check(kind.fsck).context("through the device")
}

fn on_a_disk(kind: &Kind, path: Path) -> Result<()> {
    let (ram, null);
    let node = if kind.name == XFS.name {
        null = NullDisk::new(320, 512, &[("discard", "1")])?;
        null.node()
    } else {
        ram = RamDisk::new()?;
        ram.node()
    };
    let ubd = Ubd::add(&["-t loop", path.options(), "-f", &node])?;
    run(kind, &ubd, path)?;
    ubd.del()?;
    sh(format!("blockdev --flushbufs {node}; {} {node}", kind.fsck)).context("on the backing")?;
    Ok(())
}

/// XFS on a file of XFS.
fn xfs_on_a_file() -> Result<()> {
    let disk = NullDisk::new(450, 512, &[])?;
    let lower = Mount::make(XFS.mkfs, &disk.node())?;
    let file = lower.dir().join("image").display().to_string();
    sh(format!("truncate -s 320M {file}"))?;
    let path = Path::Mapped;
    let ubd = Ubd::add(&["-t loop --direct-io=on", path.options(), "-f", &file])?;
    run(&XFS, &ubd, path)?;
    ubd.del()?;
    sh(format!("{} -f {file}", XFS.fsck)).context("on the backing")?;
    lower.check(XFS.fsck).context("below the backing")
}
