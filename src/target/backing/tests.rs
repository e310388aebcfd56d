// SPDX-License-Identifier: MIT OR Apache-2.0
//! Windows of backings, and opening them.

use super::*;
use std::io::Write;

fn opts() -> OpenOptions {
    OpenOptions {
        path: PathBuf::new(),
        offset: 0,
        size_limit: None,
        block: None,
        read_only: false,
        direct: None,
    }
}

fn limits(size: u64) -> Limits {
    Limits {
        size,
        logical_block: 512,
        physical_block: 4096,
        io_min: 4096,
        memory_align: 512,
        read_only: false,
        rotational: false,
        discard: Some(4096),
    }
}

#[test]
fn a_window_ends_on_a_sector() {
    let geometry = limits(10_000).window(&opts()).unwrap();
    assert_eq!(geometry.size, 9728);
    let geometry = limits(1 << 20)
        .window(&OpenOptions {
            offset: 4096,
            ..opts()
        })
        .unwrap();
    assert_eq!(geometry.size, (1 << 20) - 4096);
    let limited = OpenOptions {
        offset: 512,
        size_limit: Some(1024),
        ..opts()
    };
    assert_eq!(limits(1 << 20).window(&limited).unwrap().size, 1024);
}

#[test]
fn windows_that_do_not_fit_are_refused() {
    for (opts, why) in [
        (
            OpenOptions {
                offset: 100,
                ..opts()
            },
            "offset is not a multiple",
        ),
        (
            OpenOptions {
                size_limit: Some(513),
                ..opts()
            },
            "size limit is not a multiple",
        ),
        (
            OpenOptions {
                offset: 1 << 20,
                ..opts()
            },
            "smaller than a sector",
        ),
        (
            OpenOptions {
                size_limit: Some(0),
                ..opts()
            },
            "smaller than a sector",
        ),
        (
            OpenOptions {
                block: Some(256),
                ..opts()
            },
            "smallest unit",
        ),
        (
            OpenOptions {
                block: Some(8192),
                ..opts()
            },
            "not a sector size",
        ),
    ] {
        let err = limits(1 << 20).window(&opts).unwrap_err();
        assert!(err.contains(why), "{err}");
    }
}

#[test]
fn a_coarser_backing_asks_for_larger_sectors() {
    let coarse = Limits {
        logical_block: 4096,
        ..limits(1 << 20)
    };
    assert_eq!(coarse.window(&opts()).unwrap().logical_block, 4096);
    assert!(coarse
        .window(&OpenOptions {
            block: Some(512),
            ..opts()
        })
        .is_err());
}

#[test]
fn a_file_opens_and_a_directory_does_not() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[1; 5000]).unwrap();
    let backing = Backing::open(&OpenOptions {
        path: file.path().into(),
        ..opts()
    })
    .unwrap();
    assert_eq!((backing.nature, backing.direct), (Nature::File, false));
    assert_eq!(backing.geometry.size, 4608);
    let err = Backing::open(&OpenOptions {
        path: "/".into(),
        ..opts()
    })
    .unwrap_err();
    assert_eq!(err.kind(), Kind::Usage);
    let err = Backing::open(&OpenOptions {
        path: "/nowhere/x".into(),
        ..opts()
    })
    .unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
}
