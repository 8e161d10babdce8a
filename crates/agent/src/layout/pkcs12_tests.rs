//! Stores as programs of others see them, and as functions of what is in them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use super::*;

const PASSWORD: &str = "correct horse";

fn password(text: &str) -> StorePassword {
    StorePassword::parse(text).unwrap()
}

/// A key and a certificate of itself, in DER.
fn pair() -> (Vec<u8>, Vec<u8>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    (key.serialize_der(), certificate)
}

fn material<'a>(key: &'a [u8], chain: &'a [Vec<u8>], roots: &'a [Vec<u8>]) -> Material<'a> {
    Material {
        trust_domain: "dev.test",
        key,
        chain,
        roots,
        federated: &[],
        proof: None,
        password: None,
    }
}

/// What openssl says of a store, and whether it opens it; none where it is not installed.
fn openssl(folder: &Path, store: &[u8], words: &[&str]) -> Option<(bool, String)> {
    let file = folder.join("store.p12");
    fs::write(&file, store).unwrap();
    let mut command = Command::new("openssl");
    command
        .arg("pkcs12")
        .arg("-in")
        .arg(&file)
        .args(words)
        .stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "openssl is missing: {error}"
            );
            return None;
        }
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn openssl_finds_the_key_and_the_chain_under_the_password_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ((key, leaf), (_, issuer)) = (pair(), pair());
    let chain = [leaf.clone(), issuer.clone()];
    let store = key_store(&material(&key, &chain, &[]), &password(PASSWORD)).unwrap();
    let words = ["-nodes", "-passin", "pass:correct horse"];
    let Some((opened, text)) = openssl(folder.path(), &store, &words) else {
        return;
    };
    assert!(opened, "{text}");
    let found = mintage_svid::pem::encode_private_key(&key);
    assert!(text.contains(found.as_str()), "{text}");
    for certificate in &chain {
        let whole = mintage_svid::pem::encode_certificates(std::slice::from_ref(certificate));
        assert!(text.contains(whole.as_str()), "{text}");
    }
    let (_, info) = openssl(
        folder.path(),
        &store,
        &["-info", "-noout", "-passin", "pass:correct horse"],
    )
    .unwrap();
    for word in ["sha256", "PBES2", "AES-256-CBC", "hmacWithSHA256"] {
        assert!(info.contains(word), "{word}: {info}");
    }
    let (opened, text) = openssl(folder.path(), &store, &["-nodes", "-passin", "pass:incorrect horse"]).unwrap();
    assert!(!opened && text.contains("invalid password"), "{text}");
    let roots = trust_store(&material(&key, &[], &chain), &password(PASSWORD));
    let (opened, text) = openssl(folder.path(), &roots, &["-nokeys", "-passin", "pass:correct horse"]).unwrap();
    assert!(opened && text.contains("friendlyName: root-2"), "{text}");
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "{text}");
    let mut altered = store.to_vec();
    let at = altered.len() / 2;
    altered[at] ^= 1;
    assert!(!openssl(folder.path(), &altered, &words).unwrap().0);
}

#[test]
fn a_store_is_a_function_of_its_content_and_password() {
    let ((key, leaf), (other_key, other_leaf)) = (pair(), pair());
    let of = |key: &[u8], leaf: &Vec<u8>, text: &str| {
        let chain = std::slice::from_ref(leaf);
        key_store(&material(key, chain, chain), &password(text))
            .unwrap()
            .to_vec()
    };
    let first = of(&key, &leaf, PASSWORD);
    assert_eq!(of(&key, &leaf, PASSWORD), first);
    for other in [
        of(&other_key, &leaf, PASSWORD),
        of(&key, &other_leaf, PASSWORD),
        of(&key, &leaf, "another"),
    ] {
        assert_ne!(other, first);
    }
    let roots = [leaf.clone()];
    let trust = |text: &str| trust_store(&material(&key, &[], &roots), &password(text));
    assert_eq!(trust(PASSWORD), trust(PASSWORD));
    assert_ne!(trust(PASSWORD), trust("another"));
    let same = trust_store(&material(&other_key, &[], &roots), &password(PASSWORD));
    assert_eq!(same, trust(PASSWORD), "whoever's key lies beside it");
}

#[test]
fn a_password_is_printable_ascii_of_a_length_that_java_takes_and_is_never_shown() {
    for (bad, word) in [
        ("short", "6 to 128"),
        (&*"x".repeat(129), "6 to 128"),
        ("pässwort", "ASCII"),
        ("a\tbcdef", "ASCII"),
    ] {
        assert!(StorePassword::parse(bad).unwrap_err().contains(word), "{bad:?}");
    }
    assert!(!format!("{:?}", password(PASSWORD)).contains("horse"));
}

#[test]
fn lengths_are_written_as_der_wants_them() {
    for (length, head) in [
        (0, vec![4, 0]),
        (127, vec![4, 127]),
        (128, vec![4, 0x81, 128]),
        (65_536, vec![4, 0x83, 1, 0, 0]),
    ] {
        let content = vec![7; length];
        let element = tlv(OCTETS, &[&content]);
        assert_eq!(
            element.strip_suffix(content.as_slice()),
            Some(head.as_slice()),
            "{length}"
        );
    }
}
