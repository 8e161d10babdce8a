//! Folders and disks that do not wish us well: foreign files, symlinks, other owners, full, read-only and vanished disks.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
    process::Command,
};

use super::{file, generations, names, opened, pair, pair_now, place, refusal, rules};
use crate::{
    dir::Dir,
    privilege::{Tmpfs, is_root},
    swap::{
        FILES_MAX, Folder, FolderRules, GenerationFile,
        folder::MARKER,
        generation::{self, Step},
    },
};

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
    /// More than what is taken for a generation of ours.
    const MANY: usize = 4 * FILES_MAX + 1;
    let (_temp, path) = place();
    let outside = path.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let folder = opened(&path);
    symlink(&outside, path.join("..gen-1111111111111111")).unwrap();
    fs::create_dir_all(path.join("..gen-2222222222222222/nested")).unwrap();
    symlink(outside.join("precious"), path.join("..data_tmp")).unwrap();
    fs::create_dir(path.join("..gen-3333333333333333")).unwrap();
    for n in 0..MANY {
        fs::write(path.join(format!("..gen-3333333333333333/{n}")), "").unwrap();
    }
    let swapped = folder.swap(&pair(b"x")).unwrap();
    assert_eq!(swapped.leftovers.len(), 2, "{:?}", swapped.leftovers);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
    assert!(!names(&path).contains("..gen-1111111111111111"));
    assert_eq!(names(&path.join("..gen-3333333333333333")).len(), MANY);
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

const CHOWN_ONLY: &str = "MINTAGE_SYS_TEST_CHOWN_ONLY";

/// Run again as a child process by the test below; does nothing in its own right.
#[test]
fn child_that_may_give_files_away() {
    let Some(path) = std::env::var_os(CHOWN_ONLY) else {
        return;
    };
    let folder = opened(Path::new(&path));
    for content in [&b"one"[..], b"two", b"three"] {
        let given = GenerationFile {
            mode: 0o440,
            owner: Some(1234),
            group: Some(5678),
            ..file("key.pem", content)
        };
        assert_eq!(folder.swap(&[given]).unwrap().leftovers, Vec::<String>::new());
    }
}

#[test]
fn an_agent_without_root_needs_no_more_than_the_right_to_give_files_away() {
    if !is_root() {
        return;
    }
    let (temp, path) = place();
    chown(temp.path(), Some(4321), Some(4321)).unwrap();
    let run = |capabilities: &str| {
        Command::new("setpriv")
            .args(["--reuid=4321", "--regid=4321", "--clear-groups"])
            .args([
                format!("--inh-caps={capabilities}"),
                format!("--ambient-caps={capabilities}"),
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "swap::tests::hostile::child_that_may_give_files_away"])
            .env(CHOWN_ONLY, &path)
            .output()
    };
    let Ok(output) = run("-all,+chown") else { return };
    assert!(output.status.success(), "{output:?}");
    let meta = fs::metadata(path.join("key.pem")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 5678, 0o440));
    assert_eq!(generations(&path), 2);
    let output = run("-all").unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("CAP_CHOWN"),
        "{output:?}"
    );
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
