//! The store over a bucket on loopback and over a folder: what is sent, what is never overwritten, and what a failure leaves.

mod bucket;

use std::{os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use http::Method;
use mintage_ledger::ArchiveFile;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use self::bucket::{Fault, NAME, REGION, Served};
use super::{
    credentials::KeyFile,
    settings::{Bucket, UploadSettings},
    store::{Failed, Store},
    task::Upload,
};
use crate::{
    init::Deps,
    limits::{UPLOAD_PART_BYTES, UPLOAD_WHOLE_BYTES_MAX},
};

const KEY: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG");

/// A bucket, its store, and files to put there.
struct Bench {
    served: Served,
    store: Store,
    folder: TempDir,
    settings: UploadSettings,
}

fn write_key(folder: &TempDir, (id, secret): (&str, &str)) -> PathBuf {
    let path = folder.path().join("key");
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key={secret}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn settings(endpoint: String, folder: &TempDir, ca_file: Option<PathBuf>) -> UploadSettings {
    UploadSettings::Bucket(Bucket {
        name: NAME.to_owned(),
        prefix: "copies/one".to_owned(),
        region: REGION.to_owned(),
        endpoint: Some(endpoint),
        ca_file,
        credentials_file: Some(write_key(folder, KEY)),
    })
}

impl Bench {
    async fn new() -> Self {
        let (served, folder) = (Served::start(None, KEY).await, tempfile::tempdir().unwrap());
        let settings = settings(format!("http://{}", served.address), &folder, None);
        Self {
            store: Store::open(&settings, None).unwrap(),
            served,
            folder,
            settings,
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> ArchiveFile {
        let path = self.folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        ArchiveFile {
            name: name.to_owned(),
            path,
            bytes: bytes.len() as u64,
        }
    }
}

#[track_caller]
fn conflict(outcome: Result<(), Failed>, word: &str) {
    assert!(
        matches!(&outcome, Err(Failed::Conflict(told)) if told.contains(word)),
        "{outcome:?}"
    );
}

#[track_caller]
fn later(outcome: Result<(), Failed>, word: &str) {
    assert!(
        matches!(&outcome, Err(Failed::Later(told)) if told.contains(word)),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_object_is_made_once_and_only_the_same_one_counts_as_made() {
    let bench = Bench::new().await;
    let name = "copies/one/a1/2026-01/seg/00000000.idx";
    let file = bench.file("a1/2026-01/seg/00000000.idx", b"one");
    bench.store.put_new(&file, 1).await.unwrap();
    let seen = bench.served.seen();
    assert_eq!(
        (seen.len(), &seen[0].method, seen[0].key.as_str()),
        (1, &Method::PUT, name)
    );
    assert_eq!(seen[0].header("if-none-match"), "*");
    assert!(
        seen[0]
            .header("authorization")
            .starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    );

    bench.store.put_new(&file, 2).await.unwrap();
    bench.store.compare(&file).await.unwrap();
    conflict(
        bench.store.put_new(&bench.file(&file.name, b"two"), 3).await,
        "contents",
    );
    conflict(
        bench.store.put_new(&bench.file(&file.name, b"three"), 4).await,
        "length",
    );
    assert_eq!(bench.served.object(name).unwrap(), b"one"[..]);
    later(bench.store.compare(&bench.file("a1/none", b"x")).await, "a1/none");
}

#[tokio::test]
async fn a_checkpoint_is_replaced_only_if_it_is_still_the_one_that_was_read() {
    let bench = Bench::new().await;
    assert!(bench.store.read("checkpoint", 100).await.unwrap().is_none());
    bench.store.replace("checkpoint", b"1".to_vec(), None).await.unwrap();
    later(bench.store.replace("checkpoint", b"0".to_vec(), None).await, "changed");
    let first = bench.store.read("checkpoint", 100).await.unwrap();
    let also = bench.store.read("checkpoint", 100).await.unwrap();
    bench.served.seen();
    bench.store.replace("checkpoint", b"2".to_vec(), first).await.unwrap();
    assert_eq!(bench.served.seen()[0].header("if-match"), "\"1\"");
    later(bench.store.replace("checkpoint", b"0".to_vec(), also).await, "changed");
    assert_eq!(bench.served.object("copies/one/checkpoint").unwrap(), b"2"[..]);
    bench.served.place("copies/one/checkpoint", &[b'x'; 101]);
    assert!(matches!(
        bench.store.read("checkpoint", 100).await,
        Err(Failed::Conflict(_))
    ));
}

#[tokio::test]
async fn a_store_that_fails_is_asked_again_and_what_was_done_is_found() {
    let bench = Bench::new().await;
    let file = bench.file("a", b"one");
    for status in [500, 503] {
        bench.served.fail(Method::PUT, Fault::Status(status));
    }
    bench.store.put_new(&file, 1).await.unwrap();
    assert_eq!(bench.served.seen().len(), 3);
    // Done, and told to have failed: the second try finds it.
    bench.served.fail(Method::PUT, Fault::Lost(500));
    bench.store.put_new(&bench.file("b", b"two"), 2).await.unwrap();
    assert_eq!(bench.served.object("copies/one/b").unwrap(), b"two"[..]);
    // Two writers at once: nothing is there yet, and the next pass looks again.
    bench.served.fail(Method::PUT, Fault::Status(409));
    later(bench.store.put_new(&bench.file("c", b"three"), 3).await, "copies/one/c");
    bench.served.fail(Method::PUT, Fault::Status(403));
    later(bench.store.put_new(&bench.file("c", b"three"), 4).await, "403");
    bench.store.put_new(&bench.file("c", b"three"), 5).await.unwrap();
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_waited_for_no_longer_than_allowed() {
    let mut bench = Bench::new().await;
    bench.store.patience = Duration::from_millis(100);
    bench.served.fail(Method::PUT, Fault::Silent);
    later(bench.store.put_new(&bench.file("a", b"one"), 1).await, "within");
}

#[tokio::test]
async fn a_key_that_is_not_taken_is_told_and_one_that_is_rotated_is_used() {
    let bench = Bench::new().await;
    bench.served.allow(("AKIDNEW", "new/secret"));
    later(
        bench.store.put_new(&bench.file("a", b"one"), 1).await,
        "SignatureDoesNotMatch",
    );
    write_key(&bench.folder, ("AKIDNEW", "new/secret"));
    bench.store.put_new(&bench.file("a", b"one"), 2).await.unwrap();
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_has_its_name_when_it_is_whole() {
    let bench = Bench::new().await;
    let length = usize::try_from(UPLOAD_WHOLE_BYTES_MAX + 1).unwrap();
    let mut bytes = vec![7; length];
    let file = bench.file("big", &bytes);
    bench.store.put_new(&file, 0xab).await.unwrap();
    let seen = bench.served.seen();
    let parts = seen
        .iter()
        .filter(|seen| seen.key.ends_with("big.00000000000000ab.part"));
    let parts = parts.filter(|seen| seen.query.contains("partNumber"));
    assert_eq!(
        parts.count() as u64,
        UPLOAD_WHOLE_BYTES_MAX.div_ceil(UPLOAD_PART_BYTES) + 1
    );
    let last = seen.iter().rfind(|seen| seen.method == Method::POST).unwrap();
    assert_eq!(
        (last.key.as_str(), last.header("if-none-match")),
        ("copies/one/big", "*")
    );
    assert_eq!(bench.served.object("copies/one/big").unwrap(), bytes);
    assert_eq!(bench.served.keys(), ["copies/one/big"], "nothing half made stays");
    bench.store.put_new(&file, 0xac).await.unwrap();
    bytes[length - 1] = 8;
    conflict(bench.store.put_new(&bench.file("big", &bytes), 0xad).await, "contents");
    assert_eq!(bench.served.keys(), ["copies/one/big"]);
}

#[tokio::test]
async fn a_list_has_every_page_and_takes_away_what_was_left_half_made() {
    let bench = Bench::new().await;
    for name in ["1", "2", "3", "4", "4.0000000000000001.part"] {
        bench
            .served
            .place(&format!("copies/one/a1/2026-01/{name}"), name.as_bytes());
    }
    bench.served.place("copies/one/a1/2026-01-2/1", b"of the next shard");
    bench.served.place("copies/other", b"of another ledger");
    let listed = bench.store.list("a1/2026-01").await.unwrap();
    let mut names: Vec<_> = listed.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names[..4],
        ["a1/2026-01/1", "a1/2026-01/2", "a1/2026-01/3", "a1/2026-01/4"]
    );
    assert_eq!(listed["a1/2026-01/4"], 1);
    assert!(!bench.served.keys().iter().any(|key| key.ends_with(".part")));
    assert_eq!(bench.served.keys().len(), 6);
}

/// A key and certificate of `127.0.0.1` under an authority of its own, as a file.
fn authority(folder: &TempDir, name: &str) -> (PathBuf, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, root.pem()).unwrap();
    let private = rustls_pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Deps::system().provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    (path, TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn only_who_the_configured_certificates_vouch_for_is_the_store() {
    let bench = Bench::new().await;
    let (ours, acceptor) = authority(&bench.folder, "ours");
    let (other, _) = authority(&bench.folder, "other");
    let served = Served::start(Some(acceptor), KEY).await;
    let endpoint = format!("https://{}", served.address);
    for (ca_file, trusted) in [(ours, true), (other, false)] {
        let settings = settings(endpoint.clone(), &bench.folder, Some(ca_file));
        let store = Upload::new(settings, &Deps::system()).unwrap().store().unwrap();
        let outcome = store.put_new(&bench.file("a", b"one"), 1).await;
        match trusted {
            true => outcome.unwrap(),
            false => later(outcome, "no TLS with 127.0.0.1"),
        }
    }
    assert_eq!(served.seen().len(), 1, "nothing is sent to somebody else");
    // Without certificates nobody is trusted.
    let none = Store::open(&settings(endpoint, &bench.folder, None), None).unwrap();
    later(none.put_new(&bench.file("a", b"one"), 1).await, "ca_file");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_before_anything_is_served() {
    let bench = Bench::new().await;
    let UploadSettings::Bucket(bucket) = &bench.settings else {
        panic!()
    };
    let refusal = |bucket: Bucket| {
        let refused = Upload::new(UploadSettings::Bucket(bucket), &Deps::system());
        refused.unwrap_err().to_string()
    };
    let empty = bench.folder.path().join("empty");
    std::fs::write(&empty, "no PEM").unwrap();
    let mut with = bucket.clone();
    with.ca_file = Some(empty.clone());
    assert!(refusal(with).contains("ca_file"));
    let mut with = bucket.clone();
    with.credentials_file = Some(empty);
    assert!(refusal(with).contains("chmod"), "others may read it");
    for (text, word) in [
        ("", "empty"),
        ("# none yet\n", "no access key"),
        ("aws_access_key_id = A\n", "no access key"),
        ("aws_access_key_id = A\naws_secret_access_key = b c\n", "no access key"),
        ("aws_access_key_id = A\naws_access_key_id = B\n", "line 2"),
        ("[a]\naws_access_key_id = A\n[b]\n", "line 3"),
        ("aws_access_key_id = A\nsecret = hush\n", "line 2"),
    ] {
        let path = write_key(&bench.folder, KEY);
        std::fs::write(&path, text).unwrap();
        let told = KeyFile(path).read().unwrap_err();
        assert!(told.contains(word) && !told.contains("hush"), "{text:?} -> {told}");
    }
}

#[tokio::test]
async fn a_folder_is_a_store_too() {
    let bench = Bench::new().await;
    let place = tempfile::tempdir().unwrap();
    let settings = UploadSettings::Folder(place.path().to_owned());
    let store = Store::open(&settings, None).unwrap();
    let file = bench.file("a1/2026-01/snapshot", b"one");
    store.put_new(&file, 1).await.unwrap();
    store.put_new(&file, 2).await.unwrap();
    conflict(store.put_new(&bench.file(&file.name, b"two"), 3).await, "contents");
    let large = bench.file("big", &vec![7; usize::try_from(UPLOAD_WHOLE_BYTES_MAX + 1).unwrap()]);
    store.put_new(&large, 4).await.unwrap();
    store.put_new(&large, 5).await.unwrap();
    store.replace("policy", b"1".to_vec(), None).await.unwrap();
    let found = store.read("policy", 10).await.unwrap();
    store.replace("policy", b"2".to_vec(), found).await.unwrap();
    assert_eq!(store.read("policy", 10).await.unwrap().unwrap().bytes, b"2");
    assert_eq!(store.list("a1").await.unwrap().len(), 1);
    let gone = UploadSettings::Folder(place.path().join("none"));
    assert!(Store::open(&gone, None).unwrap_err().contains("must exist"));
}
