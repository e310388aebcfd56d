// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file system on the device, one below it: whoever writes may hold the locks of the upper one.

use anyhow::{Context, Result};

use super::{device, never_inline, Fs, EXT4};
use crate::support::mount::Mount;
use crate::support::{growth, sh, NullDisk, Quiet};

/// The same kind on both sides shares its locks' classes, its workqueues and its journal's thread
/// kind, and so finds most.
pub fn same_on_same(fs: Fs) -> Result<()> {
    let disk = NullDisk::new(2 * fs.mib, 512, &[])?;
    let lower = Mount::make(fs.mkfs, &disk.node())?;
    let path = lower.dir().join("image");
    sh(format!("truncate -s {}M {}", fs.mib, path.display()))?;
    let ubd = device(&path)?;
    let upper = Mount::make(fs.mkfs, &ubd.node())?;
    let dir = upper.dir().display();
    let count = growth(&ubd, || {
        sh(format!(
            "cd {dir}; cp -a /usr/share/zoneinfo/Europe tree
             dd if=/dev/urandom of=big bs=64k count=64 conv=fsync status=none
             dd if=big of=copy bs=128k oflag=direct status=none
             dd if=big of=copy bs=4k count=100 seek=7 oflag=direct,dsync conv=notrunc status=none
             sha256sum big copy > sums; sync
             echo 3 > /proc/sys/vm/drop_caches
             sha256sum --quiet -c sums; dd if=copy of=/dev/null bs=4k count=200 iflag=direct status=none
             diff -r --no-dereference /usr/share/zoneinfo/Europe tree
             rm -r tree copy; fstrim .; sync"
        ))?;
        Ok(())
    })?;
    never_inline(&count, 300).context("mounted")?;
    upper.check(fs.fsck)?;
    let again = Mount::existing(&ubd.node())?;
    sh(format!(
        "cd {}; grep big sums | sha256sum --quiet -c -",
        again.dir().display()
    ))?;
    drop(again);
    drop(ubd);
    lower.check(fs.fsck)
}

/// A control group with little memory, and its own limit for dirty pages put back at the end.
struct Squeezed {
    dirty_bytes: String,
}

const GROUP: &str = "/sys/fs/cgroup/ubd-little";

impl Squeezed {
    fn new(mib: u64) -> Result<Squeezed> {
        let dirty_bytes = sh("cat /proc/sys/vm/dirty_bytes")?;
        let squeezed = Squeezed { dirty_bytes };
        sh(format!(
            "echo +memory > /sys/fs/cgroup/cgroup.subtree_control; mkdir {GROUP}
             echo {mib}M > {GROUP}/memory.max; echo $((8 << 20)) > /proc/sys/vm/dirty_bytes"
        ))?;
        Ok(squeezed)
    }
}

impl Drop for Squeezed {
    fn drop(&mut self) {
        // One of dirty_bytes and dirty_ratio is 0: the defaults are ratios.
        let restore = match self.dirty_bytes.as_str() {
            "0" => "echo 20 > /proc/sys/vm/dirty_ratio".to_owned(),
            bytes => format!("echo {bytes} > /proc/sys/vm/dirty_bytes"),
        };
        let _ = sh(format!("{restore}; rmdir {GROUP}"));
    }
}

/// Writeback that must free the memory it needs: who waits for it must not be waited for.
pub fn little_memory() -> Result<()> {
    let disk = NullDisk::new(200, 512, &[])?;
    let lower = Mount::make(EXT4.mkfs, &disk.node())?;
    let path = lower.dir().join("image");
    sh(format!("truncate -s 160M {}", path.display()))?;
    let ubd = device(&path)?;
    let upper = Mount::make(EXT4.mkfs, &ubd.node())?;
    let _quiet = Quiet::udev()?;
    let _squeezed = Squeezed::new(20)?;
    let dir = upper.dir().display();
    let count = growth(&ubd, || {
        sh(format!(
            "dd if=/dev/urandom of=/tmp/ubd-piece bs=1M count=1 status=none
             ( echo $BASHPID > {GROUP}/cgroup.procs
               for part in 1 2; do
                 for n in $(seq 32); do cat /tmp/ubd-piece; done > {dir}/$part &
               done
               wait )
             sync; cmp {dir}/1 {dir}/2; cmp -n $((1 << 20)) /tmp/ubd-piece {dir}/2
             rm /tmp/ubd-piece"
        ))?;
        Ok(())
    })?;
    never_inline(&count, 30)?;
    upper.check(EXT4.fsck)
}
