//! What `restore` refuses, each by name and without leaving anything: backups that are damaged or put together, keys that do
//! not open or do not fit, targets that hold something.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use mintage_ca::{Ca, ChainMode, Deps, InitOptions, KeyProtection, RestoreOptions, check_restore, init, restore};
use mintage_identity::{ReplicaName, TrustDomain};
use mintage_tests::kit::{
    agent::secret_file,
    ca::{config, entry, make, token},
    client::join,
    clock::Shifted,
    folder::copied,
    follower::Follower,
    refusal::tells,
};
use tempfile::TempDir;

fn options(backup: &Path, data_dir: &Path) -> RestoreOptions {
    RestoreOptions {
        backup: backup.to_path_buf(),
        data_dir: data_dir.to_path_buf(),
        passphrase_file: None,
        root_key: None,
    }
}

/// A backup and what is refused of it.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        make(&folder.path().join("backup"));
        Self(folder)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn backup(&self, name: &str) -> PathBuf {
        self.place("backup").join(name)
    }

    /// The refusal of the rehearsal and of the restore itself, which is the same and leaves nothing.
    fn refusal(&self, options: &RestoreOptions) -> String {
        let told = check_restore(options, &Deps::system()).unwrap_err().to_string();
        assert_eq!(restore(options, &Deps::system()).unwrap_err().to_string(), told);
        assert!(!options.data_dir.join("keys").exists() && !options.data_dir.join("restore.unfinished").exists());
        told
    }

    fn refused(&self, parts: &[&str]) {
        tells(
            &self.refusal(&options(&self.place("backup"), &self.place("new"))),
            parts,
        );
    }
}

/// The newest file of the log.
fn wal(dir: &Path) -> PathBuf {
    fn find(dir: &Path) -> Option<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let is_wal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wal");
        let own = paths.iter().rfind(|path| is_wal(path)).cloned();
        own.or_else(|| paths.iter().filter(|path| path.is_dir()).find_map(|path| find(path)))
    }
    find(&dir.join("ledger")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_damaged_or_put_together_is_named() {
    let damaged = |file: &dyn Fn(&Scene) -> PathBuf, parts: &[&str]| {
        let scene = Scene::new();
        let path = file(&scene);
        let mut octets = fs::read(&path).unwrap();
        let middle = octets.len() / 2;
        octets[middle] ^= 1;
        fs::write(&path, &octets).unwrap();
        scene.refused(parts);
    };
    damaged(
        &|scene| {
            // Records of a known place, not the reserve behind them.
            let path = wal(&scene.place("backup"));
            let octets = fs::read(&path).unwrap();
            let end = octets.iter().rposition(|octet| *octet != 0).unwrap();
            fs::write(&path, &octets[..=end]).unwrap();
            path
        },
        &[".wal"],
    );
    damaged(&|scene| scene.backup("root.pem"), &["root.pem"]);
    damaged(&|scene| scene.backup("keys/log.key"), &["log.key"]);

    let removed = |name: &str, parts: &[&str]| {
        let scene = Scene::new();
        let path = scene.backup(name);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
        scene.refused(parts);
    };
    removed("authority.toml", &["holds no authority"]);
    removed("keys/log.key", &["log.key"]);
    removed("keys/root.key", &["keys/root.key", "--root-key FILE"]);
    removed("ledger", &["ledger", "missing"]);

    // Of two authorities of one name, and of two days of one.
    let other = Scene::new();
    let mixed = |name: &str, parts: &[&str]| {
        let scene = Scene::new();
        fs::copy(other.backup(name), scene.backup(name)).unwrap();
        scene.refused(parts);
    };
    mixed("keys/log.key", &["log key is not the one of its ledger"]);
    mixed("keys/root.key", &["the key is not the one of the certificate"]);
    let scene = Scene::new();
    for name in ["keys/root.key", "root.pem"] {
        fs::copy(other.backup(name), scene.backup(name)).unwrap();
    }
    scene.refused(&["root.pem is no root that its ledger has"]);
    let scene = Scene::new();
    copied(&scene.backup("ledger"), &scene.place("older"));
    let ca = Ca::start(config(&scene.place("backup")), Deps::system()).await.unwrap();
    entry(ca.admin_socket(), "web", "/web").await;
    ca.stop().await;
    fs::remove_dir_all(scene.backup("ledger")).unwrap();
    fs::rename(scene.place("older"), scene.backup("ledger")).unwrap();
    scene.refused(&["its state has seen", "put together from two"]);
}

#[test]
fn keys_that_do_not_open_are_named_and_a_root_key_that_was_moved_away_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let made = InitOptions {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        data_dir: place("backup"),
        protection: KeyProtection::Passphrase(b"correct horse".to_vec().into()),
        replica: ReplicaName::parse("ca-1").unwrap(),
    };
    init(&made, &Deps::system()).unwrap();
    secret_file(&place("right"), "correct horse\n");
    secret_file(&place("wrong"), "incorrect horse\n");
    let with = |passphrase: Option<&str>, root_key: Option<&str>| RestoreOptions {
        passphrase_file: passphrase.map(place),
        root_key: root_key.map(place),
        ..options(&place("backup"), &place("new"))
    };
    let told = |options: &RestoreOptions| restore(options, &Deps::system()).unwrap_err().to_string();
    tells(&told(&with(None, None)), &["--passphrase-file"]);
    tells(
        &told(&with(Some("wrong"), None)),
        &["log.key", "the passphrase is wrong"],
    );
    fs::rename(place("backup/keys/root.key"), place("root.key")).unwrap();
    tells(&told(&with(Some("right"), None)), &["keys/root.key", "--root-key FILE"]);
    tells(&told(&with(Some("right"), Some("right"))), &["root.key", "no PKCS#8"]);
    assert!(!place("new").exists());
    let restored = restore(&with(Some("right"), Some("root.key")), &Deps::system()).unwrap();
    assert!(!place("new/keys/root.key").exists(), "it stays where it was kept");
    // The new keys open under the old passphrase, and fit.
    let valid = config(&place("new")).with_passphrase_file(Some(place("right")));
    mintage_ca::check_data_dir(&valid).unwrap();
    let former = fs::read(place("backup/keys/intermediate.key")).unwrap();
    assert_ne!(fs::read(place("new/keys/intermediate.key")).unwrap(), former);
    assert!(restored.plan.issuers.iter().all(|id| *id != restored.issuer));
}

#[test]
fn a_target_that_holds_anything_is_left_alone() {
    let scene = Scene::new();
    let target = scene.place("target");
    make(&target);
    let before = fs::read(target.join("root.pem")).unwrap();
    let told = restore(&options(&scene.place("backup"), &target), &Deps::system());
    tells(
        &told.unwrap_err().to_string(),
        &["target", "is not empty", "never touches"],
    );
    assert_eq!(fs::read(target.join("root.pem")).unwrap(), before);
    let inside = restore(&options(&target, &target), &Deps::system());
    tells(&inside.unwrap_err().to_string(), &["is not empty"]);
    fs::create_dir(scene.place("other")).unwrap();
    fs::write(scene.place("other/kept"), "").unwrap();
    let told = restore(&options(&scene.place("backup"), &scene.place("other")), &Deps::system());
    tells(&told.unwrap_err().to_string(), &["is not empty"]);
    assert_eq!(
        fs::read_dir(scene.place("other")).unwrap().count(),
        1,
        "not even a lock"
    );
    let told = scene.refusal(&options(&scene.place("backup"), &scene.place("none/new")));
    tells(&told, &["none/new"]);
    fs::create_dir(scene.place("empty")).unwrap();
    restore(&options(&scene.place("backup"), &scene.place("empty")), &Deps::system()).unwrap();
    // What is half restored is no backup.
    fs::write(scene.backup("restore.unfinished"), "").unwrap();
    scene.refused(&["did not come to its end"]);
}

#[test]
fn a_failure_on_the_way_leaves_the_target_empty_for_the_next_try() {
    let scene = Scene::new();
    symlink("/etc/passwd", scene.backup("ledger/link")).unwrap();
    let (backup, target) = (scene.place("backup"), scene.place("new"));
    let told = restore(&options(&backup, &target), &Deps::system()).unwrap_err();
    tells(&told.to_string(), &["ledger/link", "neither a file nor a folder"]);
    let left: Vec<_> = fs::read_dir(&target)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    fs::remove_file(scene.backup("ledger/link")).unwrap();
    restore(&options(&backup, &target), &Deps::system()).unwrap();
}

#[test]
fn a_clock_behind_the_backup_is_refused() {
    let scene = Scene::new();
    let late = Shifted::behind(Duration::from_secs(3600));
    let told = restore(&options(&scene.place("backup"), &scene.place("new")), &late.deps());
    tells(
        &told.unwrap_err().to_string(),
        &["its last record is of", "set the clock"],
    );
    assert!(!scene.place("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_root_has_signed_itself_dies_and_what_it_signs_then_lives() {
    let scene = Scene::new();
    let by_root = |name: &str| config(&scene.place(name)).with_chain(ChainMode::Root);
    let ca = Ca::start(by_root("backup"), Deps::system()).await.unwrap();
    let before = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
    let mut verifier = Follower::default();
    verifier.follow(ca.admin_socket()).await.unwrap();
    verifier.accepts(&before.chain).unwrap();
    ca.stop().await;
    restore(&options(&scene.place("backup"), &scene.place("new")), &Deps::system()).unwrap();
    let ca = Ca::start(by_root("new"), Deps::system()).await.unwrap();
    verifier.follow(ca.admin_socket()).await.unwrap();
    let after = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
    let told = verifier.accepts(&before.chain).unwrap_err().to_string();
    tells(&told, &["revoked"]);
    verifier.accepts(&after.chain).unwrap();
    ca.stop().await;
}
