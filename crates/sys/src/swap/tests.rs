//! The swap on good ground: what it leaves, readers in between, and crashes and failures between any two steps.

mod hostile;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    Folder, FolderRules, GenerationFile,
    folder::{MARKER, reopen},
    generation::{self, Step},
};
use crate::SysError;

fn rules() -> FolderRules {
    FolderRules {
        tag: "dev.test/web".into(),
        owner: None,
        group: None,
        mode: 0o750,
    }
}

fn file<'a>(name: &'a str, bytes: &'a [u8]) -> GenerationFile<'a> {
    GenerationFile {
        name,
        bytes,
        mode: 0o600,
        owner: None,
        group: None,
    }
}

fn pair(content: &[u8]) -> [GenerationFile<'_>; 2] {
    [file("key.pem", content), file("svid.pem", content)]
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(temp.path()).unwrap();
    (temp, real.join("web"))
}

fn opened(path: &Path) -> Folder {
    Folder::open(path, rules()).unwrap()
}

fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn generations(path: &Path) -> usize {
    names(path).iter().filter(|name| name.starts_with("..gen-")).count()
}

/// Both files through the links, which must agree when nobody swaps.
fn pair_now(path: &Path) -> Option<Vec<u8>> {
    let key = fs::read(path.join("key.pem")).ok()?;
    assert_eq!(key, fs::read(path.join("svid.pem")).unwrap(), "mismatched pair");
    Some(key)
}

fn refusal<T>(result: Result<T, SysError>) -> String {
    let text = result.map(|_| ()).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn crash() -> SysError {
    SysError::refused(Path::new("here"), "crash")
}

#[test]
fn a_delivery_has_links_owner_only_files_and_one_earlier_generation() {
    let (_temp, path) = place();
    let folder = opened(&path);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);
    assert!(folder.current().unwrap().is_none());
    let first = folder.swap(&pair(b"one")).unwrap();
    assert_eq!((first.previous, first.leftovers.len()), (None, 0));
    assert_eq!(pair_now(&path).unwrap(), b"one");
    assert_eq!(fs::metadata(path.join("key.pem")).unwrap().mode() & 0o7777, 0o600);
    let second = folder.swap(&pair(b"two")).unwrap();
    assert_eq!(second.previous.as_ref(), Some(&first.generation));
    assert!(path.join(&first.generation).exists());
    folder.swap(&pair(b"three")).unwrap();
    assert!(!path.join(&first.generation).exists());
    assert_eq!(generations(&path), 2);
    assert_eq!(folder.prune().unwrap(), Vec::<String>::new());
    assert_eq!(generations(&path), 1);
    let current = opened(&path).current().unwrap().unwrap();
    assert_eq!(current.read("key.pem", 16).unwrap().unwrap().as_slice(), b"three");
    assert!(current.read("other", 16).unwrap().is_none());
    assert!(current.read("key.pem", 4).is_err());
}

#[test]
fn a_name_that_is_no_more_loses_its_link_and_clear_leaves_the_marker_alone() {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&[file("key.pem", b"k"), file("old.pem", b"o")]).unwrap();
    fs::write(path.join("notes.txt"), "the operator's").unwrap();
    folder.swap(&[file("key.pem", b"k")]).unwrap();
    assert!(!names(&path).contains("old.pem"));
    assert_eq!(folder.clear().unwrap(), Vec::<String>::new());
    let left: Vec<_> = names(&path).into_iter().collect();
    assert_eq!(left, [MARKER, "notes.txt"]);
    folder.swap(&pair(b"again")).unwrap();
    assert_eq!(pair_now(&path).unwrap(), b"again");
}

#[test]
fn names_and_sizes_outside_the_limits_are_refused_before_anything_is_written() {
    let (_temp, path) = place();
    let folder = opened(&path);
    let long = "a".repeat(super::NAME_BYTES_MAX + 1);
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "-rf",
        "..data",
        ".mintage-delivery",
        "a b",
        "ä",
        &long,
    ] {
        assert!(folder.swap(&[file(bad, b"x")]).is_err(), "{bad:?}");
    }
    let large = vec![0; super::FILE_BYTES_MAX + 1];
    let told = refusal(folder.swap(&[file("a", &large)]));
    assert!(
        told.contains(&format!("the limit of a delivered file is {}", super::FILE_BYTES_MAX)),
        "{told}"
    );
    assert!(folder.swap(&[file("a", b""), file("a", b"")]).is_err());
    assert!(folder.swap(&[]).is_err());
    let setuid = GenerationFile {
        mode: 0o4755,
        ..file("a", b"")
    };
    assert!(folder.swap(&[setuid]).is_err());
    assert_eq!(names(&path).len(), 1);
}

#[test]
fn readers_in_full_flight_never_see_a_mismatched_pair_or_half_a_file() {
    let (_temp, path) = place();
    let folder = opened(&path);
    let content = |n: u64| n.to_string().repeat(500).into_bytes();
    folder.swap(&pair(&content(0))).unwrap();
    let (done, pairs) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // The generation is entered once, then both files are read. Two swaps in the time of this call are
                    // possible here, and nowhere else.
                    let Ok(entered) = fs::File::open(path.join("..data")) else {
                        continue;
                    };
                    let read = |name: &str| {
                        let flags = rustix::fs::OFlags::RDONLY;
                        let fd = rustix::fs::openat(&entered, name, flags, rustix::fs::Mode::empty()).ok()?;
                        std::io::read_to_string(fs::File::from(fd)).ok()
                    };
                    // A generation two swaps old may be gone; then the reader enters the current one.
                    if let (Some(key), Some(svid)) = (read("key.pem"), read("svid.pem")) {
                        assert_eq!(key, svid);
                        assert!(!key.is_empty());
                        pairs.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Through the link each file is whole, and the name never dangles.
                let key = fs::read_to_string(path.join("key.pem"));
                if let Ok(key) = key {
                    assert_eq!(key.len() % 500, 0, "half a file");
                    assert!(!key.is_empty());
                }
                assert!(fs::symlink_metadata(path.join("key.pem")).is_ok());
            }
        });
        for n in 1..=400 {
            folder.swap(&pair(&content(n))).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(pairs.load(Ordering::Relaxed) > 100);
    assert_eq!(generations(&path), 2);
}

/// Every step of a swap of two files over an earlier generation, in order.
fn all_steps() -> Vec<Step> {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"old")).unwrap();
    let mut steps = Vec::new();
    generation::swap(&folder, &pair(b"new"), &mut |step| {
        steps.push(step);
        Ok(())
    })
    .unwrap();
    steps
}

#[test]
fn everything_is_durable_before_the_swap_and_the_swap_before_the_answer() {
    let steps = all_steps();
    let at = |step| steps.iter().position(|s| *s == step).unwrap();
    let last = |step| steps.iter().rposition(|s| *s == step).unwrap();
    assert_eq!(steps.iter().filter(|s| **s == Step::FileSynced).count(), 2);
    assert!(at(Step::Settled) < at(Step::Swept));
    assert!(last(Step::FileSynced) < at(Step::GenerationSynced));
    assert!(at(Step::GenerationSynced) < at(Step::FolderSynced));
    assert!(at(Step::Linked) < at(Step::FolderSynced));
    assert!(at(Step::FolderSynced) < at(Step::Swapped));
    assert!(at(Step::Swapped) < at(Step::SwapSynced));
    assert!(at(Step::SwapSynced) < at(Step::Unlinked));
}

#[test]
fn a_crash_between_any_two_steps_leaves_the_old_or_the_new_pair_and_the_next_swap_mends() {
    for first in [true, false] {
        for stop in 0..all_steps().len() {
            let (_temp, path) = place();
            let folder = opened(&path);
            if !first {
                folder.swap(&pair(b"older")).unwrap();
                folder.swap(&pair(b"old")).unwrap();
            }
            let (mut count, mut swapped) = (0, false);
            let locked = reopen(&folder).unwrap();
            let crashed = generation::write_and_swap(&locked.dir, &pair(b"new"), &mut |step| {
                swapped |= step == Step::Swapped;
                count += 1;
                if count > stop { Err(crash()) } else { Ok(()) }
            });
            assert!(crashed.is_err());
            drop(locked);
            let expected = match (swapped, first) {
                (true, _) => Some(b"new".to_vec()),
                (false, false) => Some(b"old".to_vec()),
                (false, true) => None,
            };
            assert_eq!(pair_now(&path), expected, "step {stop}");
            let after = opened(&path);
            after.swap(&pair(b"after")).unwrap();
            assert_eq!(pair_now(&path).unwrap(), b"after");
            after.prune().unwrap();
            let left: Vec<_> = names(&path).into_iter().filter(|n| !n.starts_with("..gen-")).collect();
            assert_eq!(left, ["..data", MARKER, "key.pem", "svid.pem"], "step {stop}");
            assert_eq!(generations(&path), 1);
        }
    }
}

#[test]
fn a_failure_at_any_step_before_the_swap_leaves_nothing_behind_and_later_keeps_both() {
    for stop in 0..all_steps().len() {
        let (_temp, path) = place();
        let folder = opened(&path);
        folder.swap(&pair(b"old")).unwrap();
        let (mut count, mut swapped) = (0, false);
        let failed = generation::swap(&folder, &pair(b"new"), &mut |step| {
            swapped |= step == Step::Swapped;
            count += 1;
            if count > stop { Err(crash()) } else { Ok(()) }
        });
        assert!(failed.is_err());
        assert!(!names(&path).contains("..data_tmp"));
        if swapped {
            // The rename may not be durable: what a crash could bring back must still be there.
            assert_eq!(
                (pair_now(&path).unwrap().as_slice(), generations(&path)),
                (&b"new"[..], 2)
            );
        } else {
            assert_eq!(
                (pair_now(&path).unwrap().as_slice(), generations(&path)),
                (&b"old"[..], 1)
            );
        }
    }
}

#[test]
fn one_writer_at_a_time() {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"one")).unwrap();
    let held = reopen(&folder).unwrap();
    assert!(matches!(folder.swap(&pair(b"two")), Err(SysError::Busy(_))));
    drop(held);
    folder.swap(&pair(b"two")).unwrap();
}
