//! The generator as it is run: what it writes, what it refuses, and that the product takes its output.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../tests/src/kit/missing.rs"]
mod missing;

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::{Command, Output},
};

use mintage_identity::{TrustDomain, UnixTime};
use mintage_mint::{CaKey, Issuer, KeyProtection, decode_key_file};
use mintage_svid::{CertInfo, X509Svid, pem};
use mintage_verifier::{AllowedIds, IdentitySource, RevocationCheck, Trust, Usage};
use missing::missing;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

fn generate(out: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mintage-certs-dev"))
        .arg("--out")
        .arg(out)
        .args(more)
        .output()
        .unwrap()
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn certificates(out: &Path, stem: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(out.join(format!("{stem}.pem"))).unwrap();
    pem::decode_certificates(&text).unwrap()
}

fn key(out: &Path, stem: &str) -> Vec<u8> {
    let text = fs::read_to_string(out.join(format!("{stem}.key"))).unwrap();
    let domain = TrustDomain::parse("dev.test").unwrap();
    decode_key_file(&text, &KeyProtection::ClearForTestDomainOnly, &domain)
        .unwrap()
        .to_vec()
}

#[test]
fn names_dates_and_serials_repeat_and_keys_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    assert!(generate(&one, &[]).status.success());
    assert!(generate(&two, &[]).status.success());
    for stem in ["root", "intermediate", "demo-web", "demo-db"] {
        let facts = |out: &Path| {
            let info = CertInfo::parse(&certificates(out, stem)[0]).unwrap();
            let names = (info.subject_raw().to_vec(), info.issuer_raw().to_vec());
            (names, *info.serial(), info.not_before(), info.not_after())
        };
        assert_eq!(facts(&one), facts(&two), "{stem}");
        assert_ne!(key(&one, stem), key(&two, stem), "{stem}");
    }
    let serials: std::collections::HashSet<_> = ["root", "intermediate", "demo-web", "demo-db"]
        .map(|stem| *CertInfo::parse(&certificates(&one, stem)[0]).unwrap().serial())
        .into();
    assert_eq!(serials.len(), 4);
    assert!(serials.iter().all(|serial| serial.is_native()));
}

#[test]
fn the_product_takes_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(generate(&out, &[]).status.success());
    let domain = TrustDomain::parse("dev.test").unwrap();
    let trust = Trust::builder(domain.clone())
        .domain(domain.clone(), certificates(&out, "bundle"), RevocationCheck::None)
        .unwrap()
        .build();
    let provider = rustls::crypto::ring::default_provider();
    for (stem, id) in [
        ("demo-web", "spiffe://dev.test/demo/web"),
        ("demo-db", "spiffe://dev.test/demo/db"),
    ] {
        let ders = certificates(&out, stem);
        assert_eq!(X509Svid::parse(ders.clone()).unwrap().id().as_str(), id);
        let chain: Vec<_> = ders.into_iter().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(key(&out, stem));
        assert!(IdentitySource::new(chain.clone(), key.into(), &provider).is_ok());
        let algorithms = &provider.signature_verification_algorithms;
        let at = |seconds| {
            let now = UnixTime::from_seconds(seconds);
            trust.verify(&chain, Usage::Both, &AllowedIds::OwnTrustDomain, algorithms, now)
        };
        // The first second, and one ten years later but for three days.
        let start = 1_767_225_600;
        assert!(at(start).is_ok() && at(start + 3_649 * 86_400).is_ok());
        assert!(at(start - 1).is_err() && at(start + 3_651 * 86_400).is_err());
    }
}

#[test]
fn the_root_is_marked_and_no_issuer_for_another_trust_domain() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(generate(&out, &[]).status.success());
    let root = certificates(&out, "root");
    let name = b"Mintage development root (dev.test only)";
    assert!(root[0].windows(name.len()).any(|window| window == name));
    let path = vec![certificates(&out, "intermediate")[0].clone(), root[0].clone()];
    for (stem, path) in [("root", root), ("intermediate", path)] {
        let load = |domain: &str| {
            let domain = TrustDomain::parse(domain).unwrap();
            Issuer::load(&domain, CaKey::from_pkcs8(&key(&out, stem)).unwrap(), path.clone())
        };
        assert!(load("dev.test").is_ok());
        assert!(load("prod.example").is_err() && load("other.test").is_err());
    }
}

#[test]
fn other_trust_domains_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for other in ["example.org", "prod.test", "dev.test.evil", "test"] {
        let text = refused(&generate(&out, &["--trust-domain", other]));
        assert!(text.contains("dev.test only"), "{text}");
    }
    assert!(!refused(&generate(&out, &["--trust-domain", "Dev.test"])).is_empty());
    assert!(!out.exists());
}

#[test]
fn leaves_that_are_no_workloads_or_no_file_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let long = format!("/{}", "a".repeat(129));
    for bad in [
        "",
        "web",
        "/",
        "/a/",
        "/../a",
        "/mintage/ca/r1",
        "/root",
        "/bundle",
        "/-rf",
        "/.x",
        "/a%2fb",
        long.as_str(),
    ] {
        let text = refused(&generate(&out, &["--leaf", bad]));
        assert!(text.starts_with("error: "), "{bad:?}: {text}");
    }
    assert!(refused(&generate(&out, &["--leaf", "/a/b", "--leaf", "/a-b"])).contains("file name"));
    assert!(!out.exists());
    assert!(generate(&out, &["--leaf", "/shop/cart"]).status.success());
    assert!(out.join("shop-cart.key").exists() && !out.join("demo-web.key").exists());
}

#[test]
fn dates_follow_the_start_and_impossible_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [
        "",
        "today",
        "2026-13-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2040-01-01T00:00:00Z",
        "9999-01-01T00:00:00Z",
    ] {
        assert!(
            refused(&generate(&dir.path().join("bad"), &["--not-before", bad])).contains("--not-before"),
            "{bad}"
        );
    }
    let out = dir.path().join("out");
    assert!(
        generate(&out, &["--not-before", "2027-05-01T02:00:00+02:00"])
            .status
            .success()
    );
    let root = CertInfo::parse(&certificates(&out, "root")[0]).unwrap();
    assert_eq!(root.not_before(), UnixTime::from_seconds(1_809_129_600));
    assert_eq!(root.not_after().since(root.not_before()).as_secs(), 3_652 * 86_400);
}

#[test]
fn keys_are_for_their_owner_alone_and_nothing_is_left_beside() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deep").join("out");
    assert!(generate(&out, &[]).status.success());
    let mode = |name: &str| fs::metadata(out.join(name)).unwrap().mode() & 0o777;
    for stem in ["root", "intermediate", "demo-web", "demo-db"] {
        assert_eq!(mode(&format!("{stem}.key")), 0o600);
    }
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1);
    // Nor by a failure: the folder itself cannot be renamed away under this name.
    let inside = Command::new(env!("CARGO_BIN_EXE_mintage-certs-dev"))
        .current_dir(&out)
        .args(["--out", ".", "--force"])
        .output()
        .unwrap();
    assert!(!inside.status.success());
    let names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().contains("new")),
        "{names:?}"
    );
    assert_eq!(names.len(), 10);
}

#[test]
fn an_existing_folder_is_replaced_only_by_force_and_only_if_it_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(generate(&out, &[]).status.success());
    let before = key(&out, "root");
    assert!(refused(&generate(&out, &[])).contains("--force"));
    assert_eq!(key(&out, "root"), before);
    assert!(generate(&out, &["--force"]).status.success());
    assert_ne!(key(&out, "root"), before);

    fs::write(out.join("thesis.txt"), "years of work").unwrap();
    assert!(refused(&generate(&out, &["--force"])).contains("thesis.txt"));
    assert!(out.join("thesis.txt").exists());

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("real.key"), "a real key").unwrap();
    assert!(!generate(&foreign, &["--force"]).status.success());
    assert!(foreign.join("real.key").exists());

    let link = dir.path().join("link");
    symlink(&out, &link).unwrap();
    assert!(!generate(&link, &["--force"]).status.success());
    assert!(out.join("thesis.txt").exists());
}

#[test]
fn openssl_verifies_the_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    assert!(generate(&out, &[]).status.success());
    for purpose in ["sslserver", "sslclient"] {
        let run = Command::new("openssl")
            .current_dir(&out)
            .args(["verify", "-x509_strict", "-purpose", purpose, "-attime", "1800000000"])
            .args([
                "-CAfile",
                "bundle.pem",
                "-untrusted",
                "intermediate.pem",
                "demo-web.pem",
            ])
            .output();
        match run {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                missing::<()>("openssl", &error.to_string());
            }
        }
    }
}
