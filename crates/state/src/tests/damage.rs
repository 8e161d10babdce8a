//! Files that were cut, flipped, mixed or made by another version: noticed, and rebuilt or refused, never believed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mintage_ledger::{FileJournal, Journal};

use super::samples::*;
use crate::store::{Found, Meta, Store};
use crate::{State, StateError, View};

/// A ledger with a state of some size, closed; and the digest of its view.
fn ready(dir: &Path) -> (Arc<FileJournal>, [u8; 32]) {
    let journal = new_ledger(dir, "damage");
    let entries = (0..40).map(|n| record(1, put(&format!("e{n}"), "n1", 60 + n, 0)));
    append(&*journal, entries);
    append(&*journal, (0..40).map(|n| record(2, token(n, "n1", 600))));
    append(
        &*journal,
        [
            record(3, revoke(&(0..40).collect::<Vec<_>>(), Vec::new())),
            record(4, bundle(1)),
        ],
    );
    let state = open(dir, &journal).unwrap();
    let digest = state.view().digest();
    drop(state);
    // Some of it a second time, so that sled has old and new pages.
    append(
        &*journal,
        (0..40_u64).map(|n| record(5, put(&format!("e{n}"), "n2", 600, n + 1))),
    );
    let state = open(dir, &journal).unwrap();
    assert_ne!(state.view().digest(), digest);
    let digest = state.view().digest();
    drop(state);
    (journal, digest)
}

fn open(dir: &Path, journal: &Arc<FileJournal>) -> Result<State, StateError> {
    State::open(&dir.join("state"), &domain(), Arc::clone(journal) as Arc<dyn Journal>)
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A small generator, so that each run damages the same places.
struct Places(u64);

impl Places {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end.max(1)
    }
}

/// The end of what is not zero: sled's file is mostly air.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

#[test]
fn truncated_and_bit_flipped_stores_give_the_ledgers_view() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, digest) = ready(dir.path());
    let (state, whole) = (dir.path().join("state"), dir.path().join("whole"));
    copy(&state, &whole);
    let mut places = Places(seed());
    let mut rebuilt = 0;
    let rounds = rounds(300);
    for file in files(&whole.join("sled")) {
        let target = state.join(file.strip_prefix(&whole).unwrap());
        let bytes = fs::read(&file).unwrap();
        for round in 0..rounds {
            copy(&whole, &state);
            let mut bytes = bytes.clone();
            match round % 3 {
                0 => bytes.truncate(places.below(used(&bytes) + 1)),
                1 => {
                    let at = places.below(used(&bytes));
                    bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (round % 8));
                }
                _ => {
                    let at = places.below(used(&bytes));
                    let end = (at + 64).min(bytes.len());
                    bytes[at..end].fill(0);
                }
            }
            fs::write(&target, &bytes).unwrap();
            let opened = open(dir.path(), &journal).unwrap_or_else(|error| panic!("{target:?} round {round}: {error}"));
            assert_eq!(opened.view().digest(), digest, "{target:?} round {round}");
            drop(opened);
            rebuilt += usize::from(state.join("sled.bad").exists());
        }
    }
    assert!(rebuilt > 5, "the damage was felt: {rebuilt}");
}

#[test]
fn a_store_without_a_file_or_with_files_of_another_time_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, digest) = ready(dir.path());
    let (state, whole) = (dir.path().join("state"), dir.path().join("whole"));
    copy(&state, &whole);
    append(&*journal, [record(6, put("late", "n1", 60, 0))]);
    drop(open(dir.path(), &journal).unwrap());
    let later = dir.path().join("later");
    copy(&state, &later);
    let expected = open(dir.path(), &journal).unwrap().view().digest();
    assert_ne!(expected, digest);
    for file in files(&later.join("sled")) {
        let name = file.strip_prefix(&later).unwrap();
        copy(&later, &state);
        fs::remove_file(state.join(name)).unwrap();
        assert_eq!(
            open(dir.path(), &journal).unwrap().view().digest(),
            expected,
            "without {name:?}"
        );
        // One file of before beside those of after.
        if whole.join(name).exists() {
            copy(&later, &state);
            fs::copy(whole.join(name), state.join(name)).unwrap();
            assert_eq!(
                open(dir.path(), &journal).unwrap().view().digest(),
                expected,
                "mixed {name:?}"
            );
        }
    }
}

#[test]
fn content_that_is_not_what_its_mark_was_written_for_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, digest) = ready(dir.path());
    let folder = dir.path().join("state/sled");
    let db = || sled::Config::new().path(&folder).flush_every_ms(None).open();
    type Damage<'a> = (&'a str, &'a dyn Fn(&sled::Db));
    let damages: [Damage<'_>; 5] = [
        ("an object is gone", &|db| drop(db.remove(b"ee7").unwrap().unwrap())),
        ("an object is from before", &|db| {
            drop(db.insert(b"ee7", db.get(b"ee8").unwrap().unwrap()).unwrap())
        }),
        ("an object too many", &|db| {
            drop(db.insert(b"ee99", db.get(b"ee8").unwrap().unwrap()).unwrap())
        }),
        ("an unknown object", &|db| drop(db.insert(b"zz", b"1").unwrap())),
        ("no mark", &|db| drop(db.remove(b"m").unwrap().unwrap())),
    ];
    for (what, damage) in damages {
        let opened = (0..100).find_map(|_| {
            db().ok().or_else(|| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                None
            })
        });
        let opened = opened.unwrap();
        damage(&opened);
        opened.flush().unwrap();
        drop(opened);
        drop(fs::remove_dir_all(dir.path().join("state/sled.bad")));
        assert_eq!(open(dir.path(), &journal).unwrap().view().digest(), digest, "{what}");
        assert!(
            dir.path().join("state/sled.bad").exists(),
            "{what}: the bad store is kept for a look"
        );
    }
}

#[test]
fn an_older_version_is_rebuilt_and_a_newer_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, digest) = ready(dir.path());
    let state = dir.path().join("state");
    let write_version = |version: u64| {
        let (store, found) = Store::open(&state, &domain()).unwrap();
        let Found::Whole(view, mark) = found else {
            panic!("it was whole")
        };
        let mut meta = Meta::of(&view, mark.leaf);
        meta.version = version;
        store.write_meta(meta);
    };
    write_version(0);
    assert_eq!(open(dir.path(), &journal).unwrap().view().digest(), digest);
    assert!(state.join("sled.bad").exists());
    write_version(2);
    assert!(matches!(
        open(dir.path(), &journal),
        Err(StateError::Newer { found: 2, known: 1, .. })
    ));
}

#[test]
fn a_damaged_watermark_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, digest) = ready(dir.path());
    let path = dir.path().join("state/watermark");
    let good = fs::read(&path).unwrap();
    for bad in [&good[..good.len() - 1], b"", b"\0\0\0", &[b'9'; 4_096]] {
        fs::write(&path, bad).unwrap();
        assert_eq!(open(dir.path(), &journal).unwrap().view().digest(), digest);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
    let view: Arc<View> = open(dir.path(), &journal).unwrap().view();
    assert_eq!(State::seen(&dir.path().join("state")).unwrap(), view.applied());
}
