//! The real `mintage-ca` over a data directory that is unsafe, damaged or taken: it refuses to start with one line that
//! says what and what to do, or recovers as designed. It never starts empty, for that would un-revoke everything.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use mintage_ca::{Deps, InitOptions, KeyProtection, init};
use mintage_identity::{ReplicaName, TrustDomain};
use mintage_tests::kit::{
    bins::binary,
    ca::{self, CaProcess, domain, entries},
    peers::root,
    refusal::{refused, tells},
    wal::{GROUP_HEAD, RECORD, files, frames, wal},
};
use tempfile::TempDir;

/// A new authority, and the folder that it goes with.
fn authority() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    (folder, dir)
}

/// One that has been used: an entry, and a ledger of several groups.
async fn used() -> (TempDir, PathBuf) {
    let (folder, dir) = authority();
    let running = CaProcess::start(&dir, 0);
    for name in ["web", "db", "mail"] {
        ca::entry(&running.admin_socket(), name, &format!("/{name}")).await;
    }
    assert_eq!(running.stop(), Some(0));
    (folder, dir)
}

/// Runs a verb that must refuse, and returns its one line.
fn refusal(verb: &str, dir: &Path, more: &[&str]) -> String {
    let mut command = Command::new(binary("mintage-ca"));
    command.arg(verb).arg("--data-dir").arg(dir).args(more);
    if verb == "serve" {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    refused(&mut command)
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Holds what both verbs say of what one of them would start.
#[track_caller]
fn both(config: &Path, parts: &[&str]) {
    for verb in ["validate", "serve"] {
        let mut command = Command::new(binary("mintage-ca"));
        tells(&refused(command.arg(verb).arg("--config").arg(config)), parts);
    }
}

/// A configuration over `dir`, beside it.
fn configured(dir: &Path, chain: &str) -> PathBuf {
    let path = dir.with_extension(chain);
    let text = format!("data_dir = {dir:?}\nlisten = \"127.0.0.1:0\"\n[ca]\nchain = \"{chain}\"\n");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn an_unsafe_folder_is_refused_with_its_remedy() {
    let (_folder, dir) = authority();
    let config = configured(&dir, "intermediate");
    // The state is made by the first start.
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
    for (folder, name) in [(dir.clone(), "ca: "), (dir.join("keys"), "keys: ")] {
        for unsafe_mode in [0o777, 0o702] {
            mode(&folder, unsafe_mode);
            both(&config, &[name, "chmod"]);
        }
        mode(&folder, 0o700);
    }
    for (folder, name) in [(dir.join("ledger"), "ledger"), (dir.join("state"), "state")] {
        mode(&folder, 0o777);
        tells(&refusal("serve", &dir, &[]), &[name, "chmod"]);
        mode(&folder, 0o700);
    }
    if root("nobody else makes what belongs to another user") {
        for (folder, name) in [
            (dir.clone(), "ca: "),
            (dir.join("keys"), "keys: "),
            (dir.join("ledger"), "ledger"),
            (dir.join("state"), "state"),
        ] {
            chown(&folder, Some(12345), None).unwrap();
            tells(&refusal("serve", &dir, &[]), &[name, "12345", "chown"]);
            chown(&folder, Some(0), None).unwrap();
        }
    }
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
}

#[test]
fn each_unsafe_key_file_is_refused_with_its_remedy() {
    let (_folder, dir) = authority();
    let (_other, stranger) = authority();
    for (name, chain) in [
        ("intermediate.key", "intermediate"),
        ("log.key", "intermediate"),
        ("revocation.key", "intermediate"),
        // Read only where the root signs leaves itself.
        ("root.key", "root"),
    ] {
        let config = configured(&dir, chain);
        let key = dir.join("keys").join(name);
        let kept = dir.join("keys/kept");
        let at = format!("{name}: ");
        let refuses = |parts: &[&str]| both(&config, &[[at.as_str()].as_slice(), parts].concat());
        for unsafe_mode in [0o644, 0o640, 0o602] {
            mode(&key, unsafe_mode);
            refuses(&["chmod 600"]);
        }
        mode(&key, 0o600);
        fs::rename(&key, &kept).unwrap();
        symlink("kept", &key).unwrap();
        refuses(&["symbolic link"]);
        fs::remove_file(&key).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        refuses(&["named pipe"]);
        fs::remove_file(&key).unwrap();
        refuses(&["open"]);
        fs::create_dir(&key).unwrap();
        refuses(&["directory"]);
        fs::remove_dir(&key).unwrap();
        if root("nobody else makes what belongs to another user") {
            fs::copy(&kept, &key).unwrap();
            chown(&key, Some(12345), None).unwrap();
            refuses(&["uid 12345", "chown"]);
            fs::remove_file(&key).unwrap();
        }
        fs::write(&key, "no key\n").unwrap();
        mode(&key, 0o600);
        both(&config, &[name, "no PKCS#8 private key"]);
        // Another authority's: only the ledger tells what its own log and revocation keys are.
        fs::copy(stranger.join("keys").join(name), &key).unwrap();
        let mut serve = Command::new(binary("mintage-ca"));
        tells(
            &refused(serve.arg("serve").arg("--config").arg(&config)),
            &["key", "not the one"],
        );
        fs::rename(&kept, &key).unwrap();
    }
    assert_eq!(CaProcess::start(&dir, 0).stop(), Some(0));
}

#[test]
fn a_wrong_or_missing_passphrase_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    let options = InitOptions {
        trust_domain: domain(),
        data_dir: dir.clone(),
        protection: KeyProtection::Passphrase(b"correct horse".to_vec().into()),
        replica: ReplicaName::parse("ca-1").unwrap(),
    };
    init(&options, &Deps::system()).unwrap();
    let file = folder.path().join("pass");
    fs::write(&file, "incorrect horse\n").unwrap();
    mode(&file, 0o600);
    let path = file.to_str().unwrap();
    for verb in ["validate", "serve"] {
        tells(
            &refusal(verb, &dir, &["--passphrase-file", path]),
            &["intermediate.key", "passphrase is wrong"],
        );
        tells(
            &refusal(verb, &dir, &[]),
            &["intermediate.key", "encrypted", "passphrase"],
        );
    }
    mode(&file, 0o644);
    tells(
        &refusal("serve", &dir, &["--passphrase-file", path]),
        &["pass: ", "chmod 600"],
    );
}

#[test]
fn a_development_root_is_refused_in_every_other_trust_domain() {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
    let certificate = |name: &str, depth| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI("spiffe://other.test".try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.is_ca = IsCa::Ca(depth);
        params.use_authority_key_identifier_extension = true;
        params
    };
    // Only the root's name tells: what it signed has a name of its own.
    for (root, refuses) in [
        ("Mintage development root (dev.test only)", true),
        ("Another root", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let trust_domain = TrustDomain::parse("other.test").unwrap();
        let options = InitOptions {
            trust_domain: trust_domain.clone(),
            data_dir: dir.clone(),
            protection: KeyProtection::ClearForTestDomainOnly,
            replica: ReplicaName::parse("ca-1").unwrap(),
        };
        init(&options, &Deps::system()).unwrap();
        let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let params = certificate(root, BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap().der().to_vec();
        let issuer = rcgen::Issuer::new(params, root_key);
        let params = certificate("An intermediate", BasicConstraints::Constrained(0));
        let intermediate = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        for (name, der) in [("root.pem", root), ("intermediate.pem", intermediate)] {
            fs::write(dir.join(name), mintage_svid::pem::encode_certificates([der])).unwrap();
        }
        fs::remove_file(dir.join("root.crl")).unwrap();
        let protection = KeyProtection::ClearForTestDomainOnly;
        let text = mintage_mint::encode_key_file(key.serialized_der(), &protection, &trust_domain, &[0; 32]).unwrap();
        fs::write(dir.join("keys/intermediate.key"), text.as_bytes()).unwrap();
        if refuses {
            for verb in ["validate", "serve"] {
                tells(&refusal(verb, &dir, &[]), &["development root", "dev.test alone"]);
            }
        } else {
            // The same with another name stands, so it was the name that was refused.
            let mut validate = Command::new(binary("mintage-ca"));
            assert!(
                validate
                    .arg("validate")
                    .arg("--data-dir")
                    .arg(&dir)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_data_is_refused_and_the_first_goes_on() {
    let (_folder, dir) = authority();
    let running = CaProcess::start(&dir, 0);
    tells(&refusal("serve", &dir, &[]), &["lock", "another process", "stop"]);
    ca::entry(&running.admin_socket(), "web", "/web").await;
    assert_eq!(entries(&running.admin_socket()).await, 1);
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_gone_is_never_made_anew() {
    let (folder, dir) = used().await;
    let aside = folder.path().join("aside");
    fs::rename(dir.join("ledger"), &aside).unwrap();
    tells(&refusal("serve", &dir, &[]), &["ledger", "missing", "restore"]);
    fs::create_dir(dir.join("ledger")).unwrap();
    mode(&dir.join("ledger"), 0o700);
    tells(&refusal("serve", &dir, &[]), &["ledger", "missing", "restore"]);
    // Without the state nothing else remembers, and still it is not made anew.
    fs::remove_dir_all(dir.join("ledger")).unwrap();
    fs::rename(dir.join("state"), folder.path().join("state")).unwrap();
    tells(&refusal("serve", &dir, &[]), &["ledger", "missing", "restore"]);
    fs::rename(&aside, dir.join("ledger")).unwrap();
    let running = CaProcess::start(&dir, 0);
    assert_eq!(entries(&running.admin_socket()).await, 3);
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_cut_or_changed_is_refused_and_named() {
    let (_folder, dir) = used().await;
    let wal = wal(&dir);
    let whole = fs::read(&wal).unwrap();
    let frames = frames(&whole);
    let of_kind = |kind| frames.iter().filter(move |frame| frame.kind == kind);
    let heads: Vec<usize> = of_kind(GROUP_HEAD).map(|frame| frame.at).collect();
    assert!(heads.len() > 4, "{frames:?}");
    let all = of_kind(RECORD).count();
    // Whole groups are missing from the end: the file shorter, or as if they had never been written.
    let ledger = dir.join("ledger").display().to_string();
    for at in [*heads.last().unwrap(), heads[heads.len() / 2], heads[1]] {
        let have = of_kind(RECORD).filter(|frame| frame.at < at).count();
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        for cut in [&whole[..at], &zeroed] {
            fs::write(&wal, cut).unwrap();
            tells(
                &refusal("serve", &dir, &[]),
                &[
                    &format!("the ledger in {ledger} holds {have} records, up to byte {at} of "),
                    "00000001.wal, but the last signed checkpoint has seen ",
                    &format!(" {all}: "),
                    "put the newer one back",
                ],
            );
        }
    }
    // One bit of a record in the middle.
    let (at, len) = of_kind(RECORD).nth(all / 2).map(|frame| (frame.at, frame.len)).unwrap();
    let mut flipped = whole.clone();
    flipped[at + len / 2] ^= 0x10;
    fs::write(&wal, &flipped).unwrap();
    tells(
        &refusal("serve", &dir, &[]),
        &["00000001.wal", "damaged at byte", "restore"],
    );
    // A record taken out, with those behind it moved up.
    let without = [&whole[..at], &whole[at + len..]].concat();
    fs::write(&wal, &without).unwrap();
    tells(&refusal("serve", &dir, &[]), &["00000001.wal", "restore"]);
    fs::write(&wal, &whole).unwrap();
    let running = CaProcess::start(&dir, 0);
    assert_eq!(entries(&running.admin_socket()).await, 3);
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_gone_or_damaged_is_made_again_from_the_ledger() {
    let (_folder, dir) = used().await;
    let state = dir.join("state");
    let serves_all = async || {
        let running = CaProcess::start(&dir, 0);
        assert_eq!(entries(&running.admin_socket()).await, 3);
        assert_eq!(running.stop(), Some(0));
    };
    fs::remove_dir_all(&state).unwrap();
    serves_all().await;
    for damage in [
        |octets: &mut Vec<u8>| octets.fill(0xa5),
        |octets: &mut Vec<u8>| octets.truncate(octets.len() / 2),
    ] {
        let files = files(&state.join("sled"));
        assert!(!files.is_empty(), "the store has files");
        for file in files {
            let mut octets = fs::read(&file).unwrap();
            damage(&mut octets);
            fs::write(&file, octets).unwrap();
        }
        serves_all().await;
    }
}
