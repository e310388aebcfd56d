// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk over a made-up sysfs.

use super::*;
use std::os::unix::fs::symlink;

/// A sysfs with one directory for each device, below `devices/`.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(devices: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for device in devices {
            fs::create_dir_all(dir.path().join("devices").join(device).join("slaves")).unwrap();
        }
        Fake { dir }
    }

    fn device(&self, name: &str) -> PathBuf {
        self.dir.path().join("devices").join(name)
    }

    fn slave(&self, upper: &str, lower: &str) {
        let name = Path::new(lower).file_name().unwrap();
        symlink(
            self.device(lower),
            self.device(upper).join("slaves").join(name),
        )
        .unwrap();
    }

    fn walk(&self, name: &str) -> Result<Option<Chain>> {
        let walker = Walker {
            sys: self.dir.path().into(),
            mounts: Vec::new(),
        };
        walker.device(&self.device(name), 0)
    }
}

#[test]
fn a_ubd_device_under_dm_on_md_is_found() {
    let sys = Fake::new(&["dm-0", "md0", "sda", "ubdb3"]);
    sys.slave("dm-0", "sda");
    sys.slave("dm-0", "md0");
    sys.slave("md0", "ubdb3");
    assert_eq!(sys.walk("dm-0").unwrap().unwrap(), ["dm-0", "md0", "ubdb3"]);
    assert_eq!(sys.walk("sda").unwrap(), None);
}

#[test]
fn partitions_count_as_their_disk() {
    let sys = Fake::new(&["dm-0", "dm-0/dm-0p1", "ubdb0", "ubdb0/ubdb0p1"]);
    fs::write(sys.device("dm-0/dm-0p1/partition"), "1").unwrap();
    sys.slave("dm-0", "ubdb0/ubdb0p1");
    assert_eq!(
        sys.walk("dm-0/dm-0p1").unwrap().unwrap(),
        ["dm-0p1", "ubdb0p1"]
    );
}

#[test]
fn a_circle_ends() {
    let sys = Fake::new(&["dm-0", "dm-1"]);
    sys.slave("dm-0", "dm-1");
    sys.slave("dm-1", "dm-0");
    assert_eq!(sys.walk("dm-0").unwrap_err().kind(), Kind::Usage);
}

#[test]
fn mountinfo_lines_are_read() {
    let line = r"36 35 0:42 / /mnt\040x rw shared:1 - overlay over\040lay rw,lowerdir=/a:/b\040c,upperdir=/u,workdir=/w";
    let mount = Mount::parse(line).unwrap();
    assert_eq!((mount.id, mount.kind.as_str()), (36, "overlay"));
    assert_eq!((mount.parent, mount.dev.as_str()), (35, "0:42"));
    assert_eq!(mount.source, "over lay");
    assert_eq!(mount.layers(), ["/a", "/b c", "/u"].map(PathBuf::from));
}

#[test]
fn an_overlay_that_covers_its_own_layer_lies_on_what_it_covers() {
    let sys = Fake::new(&["sda", "ubdb1"]);
    fs::create_dir_all(sys.dir.path().join("dev/block")).unwrap();
    symlink(sys.device("ubdb1"), sys.dir.path().join("dev/block/259:7")).unwrap();
    // Whatever mount the layer lies on here, it is to be that of the overlay.
    let (layer, below) = (sys.dir.path(), u64::MAX);
    let over = mount_id(layer).unwrap();
    let overlay = format!(
        "{over} {below} 0:50 / / rw - overlay o rw,lowerdir={}",
        layer.display()
    );
    let lines = [overlay, format!("{below} 1 259:7 / / rw - ext4 /dev/x rw")];
    let walker = Walker {
        sys: layer.into(),
        mounts: lines.iter().filter_map(|line| Mount::parse(line)).collect(),
    };
    let overlay = walker.mount_of(over).unwrap();
    assert_eq!(walker.mount(overlay, 0).unwrap().unwrap(), ["ubdb1"]);
}

#[test]
fn this_machines_own_files_lie_on_no_ubd_device() {
    let file = tempfile::NamedTempFile::new().unwrap();
    check(file.path()).unwrap();
    assert_eq!(
        check(Path::new("/nowhere/x")).unwrap_err().kind(),
        Kind::NotFound
    );
}

proptest::proptest! {
    #[test]
    fn any_line_of_mounts_is_survived(line in "[0-9]{1,3} [0-9]{1,3} 0:7 / /mnt rw - overlay [a\\\\0-7,:=]{0,20} (lowerdir\\+?=|upperdir=)?[a/:,\\\\0-7]{0,30}|.{0,60}") {
        if let Some(mount) = Mount::parse(&line) {
            for layer in mount.layers() {
                proptest::prop_assert!(!layer.as_os_str().is_empty());
            }
        }
    }

    /// As the kernel writes them.
    #[test]
    fn escapes_are_undone(text in "[a-z \\t\\n\\\\#é]{0,20}") {
        let written: String = text
            .chars()
            .map(|c| match c {
                ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", c as u32),
                _ => c.to_string(),
            })
            .collect();
        proptest::prop_assert_eq!(unescape(&written), text);
    }
}
