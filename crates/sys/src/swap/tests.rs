//! Attacks on the swap: crashes between any two steps, readers in between, full and vanished disks, foreign files.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    Folder, FolderRules, GenerationFile,
    folder::{MARKER, reopen},
    generation::{self, Step},
};
use crate::{SysError, dir::Dir};

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

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
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
    let long = "a".repeat(65);
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
    assert!(folder.swap(&[file("a", &large)]).is_err());
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

#[test]
fn output_folder_as_symlink_or_below_one_or_as_a_file_is_refused() {
    let (_temp, path) = place();
    let real = path.with_file_name("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, &path).unwrap();
    assert!(refusal(Folder::open(&path, rules())).contains("symbolic link"));
    assert!(refusal(Folder::open(&path.join("below"), rules())).contains("symbolic link"));
    let plain = path.with_file_name("plain");
    fs::write(&plain, "x").unwrap();
    assert!(refusal(Folder::open(&plain, rules())).contains("no directory"));
    assert!(refusal(Folder::open(&path.with_file_name("a").join("b"), rules())).contains("parent"));
    assert!(names(&real).is_empty());
}

#[test]
fn a_folder_replaced_by_a_symlink_or_another_folder_after_opening_gets_nothing() {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"one")).unwrap();
    let moved = path.with_file_name("moved");
    fs::rename(&path, &moved).unwrap();
    assert!(refusal(folder.swap(&pair(b"two"))).contains("gone"));
    symlink(&moved, &path).unwrap();
    assert!(refusal(folder.swap(&pair(b"two"))).contains("symbolic link"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refusal(folder.swap(&pair(b"two"))).contains("another directory"));
    assert!(names(&path).is_empty());
    assert_eq!(pair_now(&moved).unwrap(), b"one");
}

#[test]
fn a_folder_that_is_not_ours_or_another_deliverys_is_refused_untouched() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("precious"), "x").unwrap();
    assert!(refusal(Folder::open(&path, rules())).contains("not empty"));
    assert_eq!(names(&path).len(), 1);
    fs::remove_file(path.join("precious")).unwrap();
    fs::create_dir(path.join("lost+found")).unwrap();
    opened(&path).swap(&pair(b"one")).unwrap();
    let other = FolderRules {
        tag: "dev.test/db".into(),
        ..rules()
    };
    assert!(refusal(Folder::open(&path, other)).contains("another delivery (dev.test/web)"));
    assert_eq!(pair_now(&path).unwrap(), b"one");
}

#[test]
fn a_marker_cut_short_by_a_crash_is_finished_and_a_false_one_refused() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    fs::write(path.join(MARKER), "mintage deliv").unwrap();
    opened(&path).swap(&pair(b"one")).unwrap();
    fs::write(path.join(MARKER), vec![b'x'; 4096]).unwrap();
    assert!(refusal(Folder::open(&path, rules())).contains("marker"));
    fs::remove_file(path.join(MARKER)).unwrap();
    symlink("/etc/passwd", path.join(MARKER)).unwrap();
    assert!(Folder::open(&path, rules()).is_err());
}

#[test]
fn a_world_writable_folder_is_refused_with_the_remedy() {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"one")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(refusal(folder.swap(&pair(b"two"))).contains("chmod o-w"));
    assert!(refusal(Folder::open(&path, rules())).contains("chmod o-w"));
    assert_eq!(pair_now(&path).unwrap(), b"one");
}

#[test]
fn existing_foreign_files_hard_links_and_huge_files_are_never_replaced_or_written_through() {
    let (_temp, path) = place();
    let outside = path.with_file_name("outside");
    fs::write(&outside, "precious").unwrap();
    type Plant<'a> = &'a dyn Fn(&Path);
    let plant: [(&str, Plant<'_>); 6] = [
        ("a regular file", &|at| fs::write(at, "foreign").unwrap()),
        ("a regular file", &|at| fs::hard_link(&outside, at).unwrap()),
        ("a regular file", &|at| {
            fs::File::create(at).unwrap().set_len(4 << 30).unwrap()
        }),
        ("a symbolic link", &|at| symlink(&outside, at).unwrap()),
        ("a directory", &|at| fs::create_dir(at).unwrap()),
        ("a named pipe", &|at| {
            let dir = Dir::open(at.parent().unwrap()).unwrap();
            rustix::fs::mkfifoat(&dir, "svid.pem", rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        }),
    ];
    for (kind, plant) in plant {
        let folder = opened(&path);
        folder.swap(&[file("key.pem", b"old")]).unwrap();
        plant(&path.join("svid.pem"));
        let before = fs::symlink_metadata(path.join("svid.pem")).unwrap();
        let text = refusal(folder.swap(&pair(b"new")));
        assert!(text.contains(kind) && text.contains("svid.pem"), "{text}");
        let after = fs::symlink_metadata(path.join("svid.pem")).unwrap();
        assert_eq!(
            (before.ino(), before.len(), before.mtime()),
            (after.ino(), after.len(), after.mtime())
        );
        assert_eq!(fs::read(path.join("key.pem")).unwrap(), b"old");
        fs::remove_dir_all(&path).unwrap();
    }
    assert_eq!(fs::read(&outside).unwrap(), b"precious");
}

#[test]
fn a_pointer_that_was_planted_is_refused_and_never_followed() {
    let (_temp, path) = place();
    let outside = path.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    for target in [
        "/etc",
        "../outside",
        "..gen-123",
        "..gen-0123456789abcdeF",
        "..gen-0123456789abcdef/x",
    ] {
        let folder = opened(&path);
        symlink(target, path.join("..data")).unwrap();
        assert!(refusal(folder.swap(&pair(b"x"))).contains("..data"), "{target}");
        assert!(folder.current().is_err());
        fs::remove_dir_all(&path).unwrap();
    }
    let folder = opened(&path);
    fs::create_dir(path.join("..data")).unwrap();
    assert!(folder.swap(&pair(b"x")).is_err());
    fs::remove_dir(path.join("..data")).unwrap();
    // The pointer has our form, but the generation leads away.
    symlink("..gen-0123456789abcdef", path.join("..data")).unwrap();
    symlink(&outside, path.join("..gen-0123456789abcdef")).unwrap();
    assert!(folder.current().is_err());
    folder.swap(&pair(b"x")).unwrap();
    assert_eq!(pair_now(&path).unwrap(), b"x");
    assert!(names(&outside).is_empty());
}

#[test]
fn planted_generations_are_removed_only_as_far_as_they_could_be_ours() {
    let (_temp, path) = place();
    let outside = path.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let folder = opened(&path);
    symlink(&outside, path.join("..gen-1111111111111111")).unwrap();
    fs::create_dir_all(path.join("..gen-2222222222222222/nested")).unwrap();
    symlink(outside.join("precious"), path.join("..data_tmp")).unwrap();
    fs::create_dir(path.join("..gen-3333333333333333")).unwrap();
    for n in 0..100 {
        fs::write(path.join(format!("..gen-3333333333333333/{n}")), "").unwrap();
    }
    let swapped = folder.swap(&pair(b"x")).unwrap();
    assert_eq!(swapped.leftovers.len(), 2, "{:?}", swapped.leftovers);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
    assert!(!names(&path).contains("..gen-1111111111111111"));
    assert_eq!(names(&path.join("..gen-3333333333333333")).len(), 100);
    assert_eq!(pair_now(&path).unwrap(), b"x");
}

#[test]
fn owner_group_and_mode_are_set_before_the_files_can_be_reached() {
    if !is_root() {
        return;
    }
    let (_temp, path) = place();
    let folder = Folder::open(
        &path,
        FolderRules {
            owner: Some(1234),
            group: Some(5678),
            ..rules()
        },
    )
    .unwrap();
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 5678, 0o750));
    let given = GenerationFile {
        mode: 0o640,
        owner: Some(1234),
        group: Some(5678),
        ..file("key.pem", b"k")
    };
    let mut seen = None;
    generation::swap(&folder, &[given], &mut |step| {
        let reached = fs::metadata(path.join("key.pem"));
        if let Ok(meta) = reached {
            seen.get_or_insert((step, meta.uid(), meta.gid(), meta.mode() & 0o7777));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, Some((Step::Swapped, 1234, 5678, 0o640)));
}

#[test]
fn a_folder_of_a_third_user_is_refused() {
    if !is_root() {
        return;
    }
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"one")).unwrap();
    chown(&path, Some(4321), None).unwrap();
    assert!(refusal(folder.swap(&pair(b"two"))).contains("uid 4321"));
    let owned = FolderRules {
        owner: Some(4321),
        ..rules()
    };
    Folder::open(&path, owned).unwrap().swap(&pair(b"three")).unwrap();
    assert_eq!(pair_now(&path).unwrap(), b"three");
    chown(&path, Some(0), Some(4321)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o770)).unwrap();
    assert!(refusal(folder.swap(&pair(b"four"))).contains("chmod g-w"));
}

/// A small tmpfs, unmounted on drop. `None` where this process may not mount.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
            .arg(at)
            .status();
        matches!(mounted, Ok(status) if status.success() && is_root()).then(|| Self(at.to_owned()))
    }

    fn remount_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }

    fn unmount(&self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn output_on_a_full_disk_keeps_the_old_pair_leaves_nothing_and_recovers() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    let Some(_mounted) = Tmpfs::mount(&path, "128k") else {
        return;
    };
    let folder = opened(&path.join("web"));
    folder.swap(&pair(b"old")).unwrap();
    let large = vec![b'x'; 96 * 1024];
    for _ in 0..3 {
        let error = folder.swap(&pair(&large)).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert_eq!(pair_now(folder.path()).unwrap(), b"old");
        assert_eq!(generations(folder.path()), 1);
    }
    folder.swap(&pair(b"new")).unwrap();
    assert_eq!(pair_now(folder.path()).unwrap(), b"new");
}

#[test]
fn output_on_a_read_only_file_system_keeps_the_old_pair() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    let Some(mounted) = Tmpfs::mount(&path, "1m") else {
        return;
    };
    let folder = opened(&path.join("web"));
    folder.swap(&pair(b"old")).unwrap();
    mounted.remount_read_only();
    let error = folder.swap(&pair(b"new")).unwrap_err();
    assert_eq!(error.io_kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    assert_eq!(pair_now(folder.path()).unwrap(), b"old");
    assert_eq!(
        folder
            .current()
            .unwrap()
            .unwrap()
            .read("key.pem", 9)
            .unwrap()
            .unwrap()
            .as_slice(),
        b"old"
    );
    assert!(refusal(Folder::open(&path.join("other"), rules())).contains("make the folder"));
}

#[test]
fn output_mount_that_vanishes_is_noticed_and_what_lies_beneath_is_not_written() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    let Some(mounted) = Tmpfs::mount(&path, "1m") else {
        return;
    };
    let folder = opened(&path);
    folder.swap(&pair(b"old")).unwrap();
    // The folder is not kept open, so the file system is free to go.
    mounted.unmount();
    assert!(refusal(folder.swap(&pair(b"new"))).contains("another directory"));
    assert!(names(&path).is_empty());
}

#[test]
fn an_immutable_folder_keeps_the_old_pair() {
    let (_temp, path) = place();
    let folder = opened(&path);
    folder.swap(&pair(b"old")).unwrap();
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&path).output();
    if !matches!(chattr("+i"), Ok(output) if output.status.success()) {
        return;
    }
    let failed = folder.swap(&pair(b"new"));
    chattr("-i").unwrap();
    assert_eq!(failed.unwrap_err().io_kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(pair_now(&path).unwrap(), b"old");
    folder.swap(&pair(b"new")).unwrap();
}

#[test]
fn a_folder_that_may_not_be_written_says_so() {
    let (_temp, path) = place();
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o555)).unwrap();
    // Root may write anywhere.
    match Folder::open(&path, rules()) {
        Ok(_) => assert!(is_root()),
        Err(error) => assert_eq!(error.io_kind(), std::io::ErrorKind::PermissionDenied),
    }
}
