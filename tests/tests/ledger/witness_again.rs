//! A witness after the CA came back from an older backup, and a witness whose key is encrypted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use mintage_tests::kit::{bins::binary, ca, face::metric, folder::copied, witness::WitnessHome, witnessed::Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_older_than_what_the_witness_has_seen_is_restored_and_its_new_log_is_cosigned() {
    let (mut scene, witness) = Scene::new("60s");
    let ca = scene.serve();
    scene.cosigned(2);
    assert_eq!(ca.stop(), Some(0));
    let backup = scene.folder.path().join("backup");
    copied(&scene.dir(), &backup);
    let ca = scene.serve();
    let size = scene.size() + 12;
    for n in 0..12 {
        ca::entry(&ca.admin_socket(), &format!("e{n}"), &format!("/e{n}")).await;
    }
    scene.cosigned(size);
    let lost_log = scene.log_name();
    ca.kill();
    fs::remove_dir_all(scene.dir()).unwrap();

    let mut restore = Command::new(binary("mintage-ca"));
    restore.args(["restore", "--from"]).arg(&backup);
    let restored = restore.arg("--data-dir").arg(scene.dir()).output().unwrap();
    assert!(restored.status.success(), "{restored:?}");
    // A witness follows the new log by the statement of the old one's key, though it has seen more of that one.
    let ca = scene.serve();
    assert_ne!(scene.log_name(), lost_log);
    ca::entry(&ca.admin_socket(), "after", "/after").await;
    scene.cosigned(scene.size());
    assert_eq!(
        metric(scene.face, "mintage_alarms_total{reason=\"witness-behind\"} ").await,
        0
    );
    assert_eq!(ca.stop(), Some(0));
    // What the witness holds of the new log outlives it, and a later start is compared with that.
    witness.kill();
    let _witness = scene.witness.start();
    let ca = scene.serve();
    scene.cosigned(scene.size());
    assert_eq!(ca.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_whose_key_is_encrypted_serves_with_the_passphrase_alone() {
    let (scene, witness) = Scene::new("60s");
    drop(witness);
    let file = |name: &str, text: &str| {
        let path = scene.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (right, wrong) = (file("right", "correct horse\n"), file("wrong", "battery staple\n"));
    let policy = scene.folder.path().join("logs");
    let mut home = WitnessHome::make_encrypted(scene.folder.path(), "w2", &policy, &right);
    let key = fs::read_to_string(scene.folder.path().join("w2/key")).unwrap_or_default();
    assert!(!key.contains("PRIVATE KEY-----") || key.contains("ENCRYPTED"), "{key}");
    for (passphrase, said) in [(Some(&wrong), "passphrase"), (None, "passphrase")] {
        let told = home.refused(passphrase.map(PathBuf::as_path));
        assert!(told.contains(said), "{told}");
    }
    let running = home.start();
    // It answers: for a log that it follows, a bad request is its caller's fault.
    let (status, told) = home.ask("rubbish\n").await.unwrap();
    assert_eq!(status, 400, "{told}");
    drop(running);
}
