//! The passphrase of the CA's keys as a systemd credential: the real program takes it from `$CREDENTIALS_DIRECTORY`, and
//! nothing but it opens the keys.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use mintage_tests::kit::{
    bins::binary,
    ca::{CaProcess, token},
    client::join,
    refusal::{refused, tells},
};

const PASSPHRASE: &str = "correct horse battery";

/// What systemd hands over (LoadCredential=): a directory of the service's own, with files only it can read.
fn credentials(folder: &Path, name: &str, passphrase: &str) -> PathBuf {
    let dir = folder.join(name);
    fs::create_dir(&dir).unwrap();
    let file = dir.join("passphrase");
    fs::write(&file, passphrase).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    dir
}

/// `mintage-ca` with this credentials directory, or with none.
fn program(arguments: &[&str], credentials: Option<&Path>) -> Command {
    let mut command = Command::new(binary("mintage-ca"));
    command.args(arguments).env_remove("CREDENTIALS_DIRECTORY");
    if let Some(dir) = credentials {
        command.env("CREDENTIALS_DIRECTORY", dir);
    }
    command
}

fn succeeded(mut command: Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    String::from_utf8(output.stdout).unwrap() + &told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_opens_the_keys_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    // Only for its name: systemd may end the file without a line's end.
    let right = credentials(folder.path(), "right", PASSPHRASE);
    let wrong = credentials(folder.path(), "wrong", "another passphrase\n");
    let short = credentials(folder.path(), "short", "short\n");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let dir = folder.path().join("ca");
    let path = dir.to_str().unwrap();
    let init = ["init", "--trust-domain", "example.org", "--data-dir", path];
    let serve = ["serve", "--data-dir", path, "--listen", "127.0.0.1:0"];

    for absent in [None, Some(&*other)] {
        tells(
            &refused(&mut program(&init, absent)),
            &["example.org", "--passphrase-file"],
        );
    }
    tells(
        &refused(&mut program(&init, Some(&short))),
        &["systemd credential", "5"],
    );
    let told = succeeded(program(&init, Some(&right)));
    assert!(!told.contains(PASSPHRASE), "{told}");
    for key in ["root", "intermediate", "log", "revocation"] {
        let text = fs::read_to_string(dir.join("keys").join(format!("{key}.key"))).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{key}");
    }

    tells(&refused(&mut program(&serve, Some(&wrong))), &["key", "passphrase"]);
    tells(&refused(&mut program(&serve, None)), &["--passphrase-file"]);
    succeeded(program(&["validate", "--data-dir", path], Some(&right)));
    let ca = CaProcess::launch(&dir, program(&serve, Some(&right)));
    let joined = join(&token(&ca.admin_socket(), "n1").await).await.unwrap();
    assert_eq!(joined.domain.as_str(), "example.org");
    let log = ca.log();
    assert_eq!(ca.stop(), Some(0));
    assert!(!log.contains(PASSPHRASE), "{log}");

    // What an operator names counts more than what lies in the directory.
    let file = folder.path().join("passphrase");
    fs::write(&file, PASSPHRASE).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let named = [&serve[..], &["--passphrase-file", file.to_str().unwrap()]].concat();
    assert_eq!(CaProcess::launch(&dir, program(&named, Some(&wrong))).stop(), Some(0));
}
