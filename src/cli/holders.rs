// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses a device: told to the person who wants to delete it.

use crate::control::block_node;
use crate::sysfs::{self, Disk};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long those who only look may take: udev opens every new disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// A user who leaves no trace in /proc: the kernel itself, or one whose files are not ours to see.
pub(super) const UNSEEN: &str = "in use in a way that cannot be seen from here";

/// Who uses device `id`, each as "mounted on …", once those who only look at
/// it have had time to go.
pub(super) fn settled(id: u32) -> Vec<String> {
    let start = Instant::now();
    loop {
        let lasting = lasting(id);
        if !lasting.is_empty() {
            return lasting;
        }
        let users = openers(id);
        if users.is_empty() && !claimed(id) {
            return users;
        }
        if start.elapsed() > PATIENCE {
            return match users.is_empty() {
                true => vec![UNSEEN.to_owned()],
                false => users,
            };
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Mounts, swap areas and devices on top.
fn lasting(id: u32) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut found = Vec::new();
    for part in Disk::new(id).parts() {
        let dev = sysfs::read(&part.join("dev")).unwrap_or_default();
        let Some(name) = part.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let node = format!("/dev/{name}");
        found.extend(mount_points(&mounts, &dev, &node).map(|dir| format!("mounted on `{dir}`")));
        found.extend(
            swaps
                .lines()
                .filter(|line| line.split_whitespace().next() == Some(&node))
                .map(|_| "used as swap".to_owned()),
        );
        for holder in fs::read_dir(part.join("holders"))
            .into_iter()
            .flatten()
            .flatten()
        {
            found.push(format!(
                "used by `{}`",
                holder.file_name().to_string_lossy()
            ));
        }
    }
    found
}

/// Where the mount table has the device, by its number or its name.
fn mount_points<'a>(
    table: &'a str,
    dev: &'a str,
    node: &'a str,
) -> impl Iterator<Item = &'a str> + 'a {
    table.lines().filter_map(move |line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(2);
        let on_dev = front.next()? == dev;
        let source = back.split(' ').nth(1)?;
        (on_dev || source == node).then(|| front.nth(1)).flatten()
    })
}

/// Processes that have the device or a partition open.
fn openers(id: u32) -> Vec<String> {
    let node = block_node(id);
    let is_node = |target: &Path| {
        let rest = target
            .to_str()
            .and_then(|target| target.strip_prefix(&node));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('p'))
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        let mut fds = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        if fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|target| is_node(&target))) {
            let comm = sysfs::read(&process.path().join("comm")).unwrap_or_default();
            found.push(format!("open in process {pid} ({comm})"));
        }
    }
    found
}

/// Whether somebody claims the device, and so keeps others from claiming it.
fn claimed(id: u32) -> bool {
    let exclusive = libc::O_EXCL | libc::O_NONBLOCK;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(exclusive)
        .open(block_node(id))
        .is_err_and(|err| err.raw_os_error() == Some(libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let table = "\
22 1 259:0 / / rw shared:1 - ext4 /dev/vda1 rw
30 22 259:3 / /mnt/a rw - ext4 /dev/ubdb0 rw
31 22 0:40 / /mnt/b rw shared:2 - btrfs /dev/ubdb0p1 rw
";
        let found = |dev, node| mount_points(table, dev, node).collect::<Vec<_>>();
        assert_eq!(found("259:3", "/dev/ubdb0"), ["/mnt/a"]);
        assert_eq!(found("259:9", "/dev/ubdb0p1"), ["/mnt/b"]);
        assert!(found("259:9", "/dev/ubdb9").is_empty());
    }

    #[test]
    fn a_device_that_is_not_there_is_not_held() {
        assert!(settled(u32::MAX).is_empty());
    }
}
