// SPDX-License-Identifier: MIT OR Apache-2.0
//! Targets made again, and resized.

use super::*;
use std::fs;

const MIB: u64 = 1 << 20;

fn file(dir: &tempfile::TempDir, name: &str, len: u64) -> PathBuf {
    let path = dir.path().join(name);
    fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

fn backing(path: PathBuf) -> Backing {
    Backing::open(&OpenOptions {
        path,
        offset: 0,
        size_limit: None,
        block: None,
        read_only: false,
        direct: None,
    })
    .unwrap()
}

fn loop_of(path: PathBuf) -> Spec {
    Members::one(backing(path)).spec().unwrap()
}

fn why(result: Result<Arc<dyn Target>>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn what_is_made_again_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let members = || {
        vec![
            backing(file(&dir, "a", MIB)),
            backing(file(&dir, "b", 2 * MIB)),
        ]
    };
    let targets: [Arc<dyn Target>; 4] = [
        Arc::new(Null::new(MIB, 4096).unwrap()),
        Arc::new(Members::one(backing(file(&dir, "c", MIB + 700)))),
        Arc::new(Members::concat(members()).unwrap()),
        Arc::new(Members::stripe(members(), 65536).unwrap()),
    ];
    for (target, kind) in targets.iter().zip([
        TargetKind::Null,
        TargetKind::Loop,
        TargetKind::Concat,
        TargetKind::Stripe,
    ]) {
        let spec = target.spec().unwrap();
        assert_eq!(spec.kind, kind);
        let text = serde_json::to_string(&spec).unwrap();
        let again = serde_json::from_str::<Spec>(&text).unwrap().open().unwrap();
        assert_eq!(again.geometry(), target.geometry());
        assert_eq!(again.mapping(), target.mapping());
        assert_eq!(again.spec().unwrap(), spec);
        assert_eq!(target.name(), kind.name());
    }
}

#[test]
fn another_file_of_the_same_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "disk", MIB);
    let spec = loop_of(path.clone());
    let other = file(&dir, "other", MIB);
    fs::rename(other, path).unwrap();
    assert!(why(spec.open()).contains("another file"));
}

#[test]
fn a_file_that_was_cut_is_noticed_and_one_that_grew_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "disk", MIB);
    let spec = loop_of(path.clone());
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(2 * MIB)
        .unwrap();
    assert_eq!(spec.open().unwrap().geometry().size, MIB);
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert!(why(spec.open()).contains("smaller"));
    fs::remove_file(&path).unwrap();
    assert!(why(spec.open()).contains("failed to find"));
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = loop_of(file(&dir, "disk", MIB));
    let spoilt: [fn(&mut Spec); 9] = [
        |spec| spec.block = 0,
        |spec| spec.block = 3000,
        |spec| spec.size = 0,
        |spec| spec.size = u64::MAX,
        |spec| spec.chunk = Some(4096),
        |spec| spec.members.clear(),
        |spec| spec.members[0].offset = u64::MAX,
        |spec| spec.members[0].len = u64::MAX,
        |spec| spec.members[0].path = "disk".into(),
    ];
    for (number, spoil) in spoilt.iter().enumerate() {
        let mut spec = good.clone();
        spoil(&mut spec);
        assert!(spec.open().is_err(), "number {number}");
    }
    good.open().unwrap();
}

fn spec(kind: TargetKind, lens: &[u64]) -> Spec {
    let member = |len: &u64| Member {
        path: "/x".into(),
        offset: 4096,
        len: *len,
        direct: true,
        identity: Identity::Block { rdev: 1 },
    };
    Spec {
        kind,
        size: lens.iter().sum(),
        block: 4096,
        read_only: false,
        chunk: (kind == TargetKind::Stripe).then_some(65536),
        members: lens.iter().map(member).collect(),
    }
}

fn lens(spec: &Spec) -> Vec<u64> {
    spec.members.iter().map(|member| member.len).collect()
}

#[test]
fn the_last_of_a_concatenation_is_what_grows_and_shrinks() {
    let old = spec(TargetKind::Concat, &[MIB, 2 * MIB]);
    let room = [8 * MIB, 4 * MIB + 100];
    let new = old.resized(None, &room).unwrap();
    assert_eq!((new.size, lens(&new)), (5 * MIB, vec![MIB, 4 * MIB]));
    let new = old.resized(Some(MIB + 4096), &room).unwrap();
    assert_eq!((new.size, lens(&new)), (MIB + 4096, vec![MIB, 4096]));
    for size in [0, 4095, MIB, 512 << 10, 5 * MIB + 4096, u64::MAX] {
        assert!(old.resized(Some(size), &room).is_err(), "{size}");
    }
}

#[test]
fn a_stripe_is_resized_by_whole_rows() {
    let old = spec(TargetKind::Stripe, &[MIB, MIB]);
    let new = old.resized(None, &[3 * MIB, 2 * MIB + 70000]).unwrap();
    assert_eq!(new.size, 4 * MIB + 131072);
    assert_eq!(lens(&new), [2 * MIB + 65536; 2]);
    assert!(old.resized(Some(65536), &[MIB; 2]).is_err());
    assert_eq!(
        lens(&old.resized(Some(131072), &[MIB; 2]).unwrap()),
        [65536; 2]
    );
}

#[test]
fn a_null_device_has_any_size_but_no_largest() {
    let old = spec(TargetKind::Null, &[]);
    assert!(old.resized(None, &[]).is_err());
    assert_eq!(old.resized(Some(1 << 40), &[]).unwrap().size, 1 << 40);
    assert!(old.resized(Some(512), &[]).is_err());
}
