// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records, and what is none.

use super::*;
use crate::target::{Identity, Member, TargetKind};
use crate::uapi::Plain;
use proptest::prelude::*;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;

fn info() -> ublk::DevInfo {
    ublk::DevInfo {
        dev_id: 3,
        nr_hw_queues: 2,
        queue_depth: 64,
        ublksrv_flags: 0xfeed_f00d_dead_beef,
        ..ublk::DevInfo::zeroed()
    }
}

fn record() -> Record {
    Record {
        target: "loop".to_owned(),
        members: vec!["/srv/disk \"1\".img".to_owned()],
        spec: Some(Spec {
            kind: TargetKind::Loop,
            size: 1 << 20,
            block: 512,
            read_only: false,
            chunk: None,
            members: vec![Member {
                path: "/srv/disk \"1\".img".into(),
                offset: 4096,
                len: 1 << 20,
                direct: false,
                identity: Identity::File {
                    dev: 1,
                    ino: 2,
                    born: Some(3),
                },
            }],
        }),
        fast_path: Some(FastPathRecord {
            program: "linear".to_owned(),
            cookie: u64::MAX,
            settings: vec!["slot_len=1,2".to_owned()],
            stops_with_daemon: true,
        }),
        ..Record::new(&info(), Process::me())
    }
}

fn text() -> Vec<u8> {
    record().text().unwrap().into_bytes()
}

/// A text with something else in it, but with its sum.
fn summed(text: &str) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else {
        return text.as_bytes().to_vec();
    };
    if let Some(object) = value.as_object_mut() {
        object.remove(SUM);
        value[SUM] = sum(&value).into();
    }
    value.to_string().into_bytes()
}

fn why(text: &[u8]) -> String {
    format!("{:#}", Record::parse(text).unwrap_err())
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let records = RecordDir::at(dir.path()).unwrap();
    records.write(&record()).unwrap();
    records.write(&record()).unwrap();
    assert_eq!(file::load_from(dir.path(), 3).unwrap(), record());
    assert!(record().is_of(&info()));
    let other = ublk::DevInfo {
        ublksrv_flags: 1,
        ..info()
    };
    assert!(!record().is_of(&other));
    records.remove(3);
    let gone = file::load_from(dir.path(), 3).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_pid_alone_is_nobody() {
    let me = Process::me();
    assert!(me.lives());
    let before = Process {
        start: me.start - 1,
        ..me
    };
    assert!(!before.lives());
    let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 2";
    assert_eq!(parse_stat(line), Some(777));
    assert_eq!(parse_stat(&line.replace(" S ", " Z ")), None);
    assert_eq!(parse_stat("7 (a"), None);
}

#[test]
fn what_cannot_be_is_refused() {
    let good = String::from_utf8(text()).unwrap();
    Record::parse(good.as_bytes()).unwrap();
    for (from, to, reason) in [
        ("\"version\":1", "\"version\":2", "version 2"),
        ("\"version\":1", "\"version\":1,\"more\":1", "not a record"),
        ("\"depth\":64", "\"depth\":0", "queues or tags"),
        ("\"depth\":64", "\"depth\":65", ""),
        ("\"depth\":64", "\"depth\":65536", "not a record"),
        ("\"queues\":2", "\"queues\":-1", "not a record"),
        ("\"queues\":2", "\"queues\":1e99", "not a record"),
        ("\"kind\":\"loop\"", "\"kind\":\"tape\"", "not a record"),
        ("\"linear\"", "\"../linear\"", "its program"),
        ("slot_len=1,2", "slot_len=", "its program"),
        ("\"size\":1048576", "\"size\":\"1M\"", "not a record"),
        ("\"members\":[", "\"members\":[[", "not a record"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        let bad = summed(&bad);
        match reason {
            "" => drop(Record::parse(&bad).unwrap()),
            _ => assert!(why(&bad).contains(reason), "{to}: {}", why(&bad)),
        }
    }
    let pid = serde_json::to_string(&record().daemon).unwrap();
    let nobody = good.replacen(&pid, "{\"pid\":0,\"start\":0}", 1);
    assert!(why(&summed(&nobody)).contains("its pid"));
}

#[test]
fn what_was_changed_is_refused_though_it_makes_sense() {
    let good = String::from_utf8(text()).unwrap();
    for (from, to) in [
        ("\"offset\":4096", "\"offset\":8192"),
        ("\"read_only\":false", "\"read_only\":true"),
        ("\"stops_with_daemon\":true", "\"stops_with_daemon\":false"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(why(bad.as_bytes()).contains("checksum"), "{to}");
        Record::parse(&summed(&bad)).unwrap();
    }
    let without = serde_json::to_string(&record()).unwrap();
    assert!(why(without.as_bytes()).contains("checksum"));
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    let refused = |prepare: &dyn Fn(&Path), reason: &str| {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let err = format!("{:#}", file::load_from(dir.path(), 3).unwrap_err());
        assert!(err.contains(reason), "{err}");
    };
    let write = |dir: &Path, name: &str, mode: u32| {
        let path = dir.join(name);
        std::fs::write(&path, text()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    refused(&|dir| write(dir, "3.json", 0o666), "others than its owner");
    refused(&|dir| write(dir, "3.json", 0o664), "others than its owner");
    refused(
        &|dir| {
            write(dir, "real", 0o644);
            symlink(dir.join("real"), dir.join("3.json")).unwrap();
        },
        "symbolic link",
    );
    refused(
        &|dir| nix::unistd::mkfifo(&dir.join("3.json"), nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "not a regular file",
    );
    refused(
        &|dir| std::fs::create_dir(dir.join("3.json")).unwrap(),
        "not a regular file",
    );
    refused(
        &|dir| std::fs::write(dir.join("3.json"), vec![b' '; 3 << 20]).unwrap(),
        "longer than",
    );
    refused(
        &|dir| {
            write(dir, "3.json", 0o644);
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(dir, open).unwrap();
        },
        "its directory can be written by others",
    );
    refused(&|_| {}, "there is none");
    refused(
        &|dir| {
            let other = Record { id: 4, ..record() };
            std::fs::write(dir.join("3.json"), other.text().unwrap()).unwrap();
        },
        "it is of device 4",
    );
}

/// Whatever happened to the text, it is a record or an error, and what it describes can be opened
/// or not; nothing panics.
fn survives(text: &[u8]) {
    if let Ok(Record {
        spec: Some(spec), ..
    }) = Record::parse(text)
    {
        let _ = spec.open();
        let _ = spec.resized(None, &[0]);
        let _ = spec.resized(Some(u64::MAX), &[u64::MAX; 2]);
    }
}

proptest! {
    #[test]
    fn any_process_is_read_or_none(text in "[0-9]{1,5} \\(.{0,15}\\) [SRDZX]( -?[0-9]{1,20}){0,25}|.{0,64}") {
        if let Some(start) = parse_stat(&text) {
            // A number may have zeroes before it.
            prop_assert!(text.split(' ').any(|word| word.parse() == Ok(start)), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_survived(text in proptest::collection::vec(any::<u8>(), 0..256)) {
        survives(&text);
    }

    #[test]
    fn a_cut_record_is_refused(at in 0..text().len()) {
        prop_assert!(Record::parse(&text()[..at]).is_err());
    }

    #[test]
    fn changed_bytes_are_survived(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut text = text();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        survives(&text);
        // And with a sum that hides it.
        survives(&summed(&String::from_utf8_lossy(&text)));
        // What is believed is what was written.
        if let Ok(read) = Record::parse(&text) {
            prop_assert_eq!(read, record());
        }
    }

    #[test]
    fn any_numbers_are_survived(
        kind in 0..4usize,
        numbers in proptest::collection::vec(
            prop_oneof![any::<u64>(), 0..10u64, Just(u64::MAX), (0..64u32).prop_map(|n| 1 << n)], 6),
        members in 0..3usize,
    ) {
        let mut record = record();
        let spec = record.spec.as_mut().unwrap();
        spec.kind = [TargetKind::Null, TargetKind::Loop, TargetKind::Concat, TargetKind::Stripe][kind];
        spec.size = numbers[0];
        spec.block = numbers[1] as u32;
        spec.chunk = (numbers[2] % 3 != 0).then_some(numbers[3]);
        let member = Member { offset: numbers[4], len: numbers[5], ..spec.members[0].clone() };
        spec.members = vec![member; members];
        survives(record.text().unwrap().as_bytes());
    }
}
