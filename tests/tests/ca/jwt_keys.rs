//! The keys of JWT-SVIDs over months: made, published before they sign, changed, and taken out of the bundle; in the ledger of the
//! real CA under a clock that is moved.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc, time::Duration,
};

use mintage_ca::Ca;
use mintage_proto::v1::{BundleRequest, JwtAsk, JwtResult, TrustBundle, trust_domain_client::TrustDomainClient};
use mintage_svid::{JwtAlgorithm, JwtKey, JwtSvid};
use mintage_tests::kit::{
    bins::binary,
    ca::{config, entry, make_with, token},
    client::{admin, join, random},
    clock::Shifted,
    peers::peer,
    stream::Stream,
    verifiers::Interpreter,
};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

async fn served(data: &Path, clock: &Arc<Shifted>) -> Ca {
    Ca::start(config(data), clock.deps()).await.unwrap()
}

async fn bundle(ca: &Ca) -> TrustBundle {
    let mut client = TrustDomainClient::new(admin(ca.admin_socket()).await.unwrap());
    client
        .bundle(BundleRequest::default())
        .await
        .unwrap()
        .into_inner()
        .bundle
        .unwrap()
}

/// Sequence and key ids of the bundle after a start and a clean stop.
async fn after_a_start(data: &Path, clock: &Arc<Shifted>) -> (u64, Vec<String>) {
    let ca = served(data, clock).await;
    let bundle = bundle(&ca).await;
    ca.stop().await;
    (
        bundle.sequence,
        bundle.jwt_keys.into_iter().map(|key| key.kid).collect(),
    )
}

fn key_files(data: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(data.join("keys")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("jwt-")).collect()
}

fn file_of(kid: &str) -> String {
    format!("jwt-{kid}.key")
}

/// The ledger says so, and its meaning holds.
fn proven(data: &Path) {
    let verify = Command::new(binary("mintage"))
        .args(["audit", "verify", "--data-dir"])
        .arg(data)
        .output()
        .unwrap();
    assert!(verify.status.success(), "{verify:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_key_is_in_the_bundle_before_it_signs_and_the_former_until_its_tokens_are_over() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    let clock = Shifted::behind(DAY * 40);
    make_with(&data, &clock.deps());
    let (first, keys) = after_a_start(&data, &clock).await;
    assert_eq!((first, keys.len()), (2, 1));
    let one = keys[0].clone();
    assert_eq!(
        after_a_start(&data, &clock).await,
        (2, vec![one.clone()]),
        "a start changes nothing"
    );

    clock.move_on(DAY * 30 - HOUR / 2);
    let (sequence, keys) = after_a_start(&data, &clock).await;
    assert_eq!((sequence, keys.len()), (3, 2));
    let two = keys[1].clone();
    assert_eq!(key_files(&data), [file_of(&one), file_of(&two)].into());

    clock.move_on(HOUR);
    assert_eq!(after_a_start(&data, &clock).await, (3, vec![one.clone(), two.clone()]));
    assert_eq!(
        key_files(&data),
        [file_of(&two)].into(),
        "what signs no more is destroyed"
    );

    clock.move_on(HOUR * 26);
    assert_eq!(after_a_start(&data, &clock).await, (4, vec![two]));
    proven(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_lost_is_replaced_and_what_it_signed_stays_good() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    let clock = Shifted::behind(Duration::ZERO);
    make_with(&data, &clock.deps());
    let (_, keys) = after_a_start(&data, &clock).await;
    fs::remove_file(data.join("keys").join(file_of(&keys[0]))).unwrap();
    let ca = served(&data, &clock).await;
    let now = bundle(&ca).await;
    assert_eq!((now.sequence, now.jwt_keys.len()), (3, 2));
    assert_eq!(now.jwt_keys[0].kid, keys[0]);
    // An agent gets a token of the new key; a lost reply asked for again is another token and another record.
    entry(ca.admin_socket(), "web", "/web").await;
    let agent = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let ask = |entry: &str, audiences: &[&str]| JwtAsk {
        request_id: random::<16>().to_vec(),
        entry: entry.to_owned(),
        audiences: audiences.iter().map(|text| (*text).to_owned()).collect(),
    };
    let good = ask("web", &["db"]);
    let long = "x".repeat(256);
    let asks = vec![
        good.clone(),
        good,
        ask("gone", &["db"]),
        ask("web", &[]),
        ask("web", &[&long]),
        ask("no name", &["db"]),
        ask("web", &["a"; 17]),
    ];
    let results = stream.jwts(asks).await.unwrap();
    let code = |result: &JwtResult| {
        result
            .refusal
            .as_ref()
            .map_or("", |refusal| refusal.code.as_str())
            .to_owned()
    };
    let codes: Vec<String> = results.iter().map(code).collect();
    let bad = "invalid-argument";
    assert_eq!(codes, ["", "", "entry-unknown", bad, bad, bad, bad]);
    let tokens: Vec<JwtSvid> = results[..2]
        .iter()
        .map(|result| JwtSvid::parse(&result.token).unwrap())
        .collect();
    assert_eq!(tokens[0].header().kid.as_deref(), Some(now.jwt_keys[1].kid.as_str()));
    assert_ne!(tokens[0], tokens[1]);
    let places: BTreeSet<u64> = results[..2]
        .iter()
        .map(|result| result.receipt.as_ref().unwrap().index)
        .collect();
    assert_eq!(places.len(), 2);
    drop(stream);
    ca.stop().await;
    proven(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_signs_no_more_and_leaves_the_bundle_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("ca");
    let clock = Shifted::behind(Duration::ZERO);
    make_with(&data, &clock.deps());
    let ca = served(&data, &clock).await;
    let before = bundle(&ca).await.jwt_keys.remove(0);
    let hash = ring::digest::digest(&ring::digest::SHA256, &before.spki);
    let revoked = Command::new(binary("mintage"))
        .args([
            "revoke",
            "--reason",
            "key-compromise",
            "--key",
            &hex::encode(hash),
            "--data-dir",
        ])
        .arg(&data)
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    let started = std::time::Instant::now();
    loop {
        let now = bundle(&ca).await.jwt_keys;
        let gone = now.iter().all(|key| key.kid != before.kid);
        if gone && now.len() == 1 && key_files(&data) == [file_of(&now[0].kid)].into() {
            break;
        }
        assert!(started.elapsed() < HOUR / 60, "it stays: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ca.stop().await;
    proven(&data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_ca_signs_with_another_key_and_forgets_the_former() {
    let folder = tempfile::tempdir().unwrap();
    let (data, backup) = (folder.path().join("ca"), folder.path().join("backup"));
    let clock = Shifted::behind(Duration::ZERO);
    make_with(&backup, &clock.deps());
    let (sequence, former) = after_a_start(&backup, &clock).await;
    let restored = Command::new(binary("mintage-ca"))
        .args(["restore", "--from"])
        .arg(&backup)
        .arg("--data-dir")
        .arg(&data)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(key_files(&data), BTreeSet::new(), "the former key is not carried over");
    let (later, keys) = after_a_start(&data, &clock).await;
    assert!(later > sequence + 1);
    assert!(keys.len() == 1 && keys != former, "nothing else ends what it signed");
    proven(&data);
}

/// A new RSA key of this many bits as openssl makes one; none where that is not installed.
fn rsa_key(file: &Path, bits: usize) -> Option<()> {
    let mut openssl = Command::new(peer("openssl")?);
    let size = format!("rsa_keygen_bits:{bits}");
    openssl.args(["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &size, "-out"]);
    assert!(openssl.arg(file).status().unwrap().success());
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_rsa_key_signs_rs256_that_others_verify_and_gives_way_with_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("ca"), folder.path().join("rsa.pem"));
    let Some(()) = rsa_key(&file, 2048) else { return };
    let clock = Shifted::behind(Duration::ZERO);
    make_with(&data, &clock.deps());
    let with = |file: &Path| config(&data).with_jwt_rsa_key_file(Some(file.to_owned()));
    let small = folder.path().join("small.pem");
    rsa_key(&small, 1024).unwrap();
    let refused = Ca::start(with(&small), clock.deps()).await.err().unwrap().to_string();
    assert!(
        refused.contains("small.pem") && refused.contains("2048 to 4096"),
        "{refused}"
    );

    let ca = Ca::start(with(&file), clock.deps()).await.unwrap();
    let one = bundle(&ca).await.jwt_keys.remove(0).kid;
    entry(ca.admin_socket(), "web", "/web").await;
    let agent = join(&token(ca.admin_socket(), "n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    let ask = JwtAsk {
        request_id: random::<16>().to_vec(),
        entry: "web".to_owned(),
        audiences: vec!["cloud".to_owned()],
    };
    let token = stream.jwts(vec![ask]).await.unwrap().remove(0).token;
    drop(stream);
    let svid = JwtSvid::parse(&token).unwrap();
    assert_eq!(svid.header().algorithm, JwtAlgorithm::Rs256);
    assert_eq!(svid.header().kid.as_deref(), Some(one.as_str()));
    let keys = bundle(&ca).await.jwt_keys.into_iter();
    let keys = keys.map(|key| JwtKey::new(key.kid, key.spki).unwrap()).collect();
    let domain = mintage_tests::kit::ca::domain();
    let jwks = mintage_svid::TrustBundle::new(domain, Vec::new(), keys, 1, None)
        .unwrap()
        .to_jwt_jwks_json();
    verified_by_python(&token, &jwks, svid.issued_at().unwrap().seconds());
    ca.stop().await;

    // It is nobody's to change but its operator's; without it, one is made here, and published before it signs.
    clock.move_on(DAY * 39);
    let ca = Ca::start(with(&file), clock.deps()).await.unwrap();
    assert_eq!(bundle(&ca).await.jwt_keys.len(), 1);
    ca.stop().await;
    let (_, kids) = after_a_start(&data, &clock).await;
    assert_eq!((kids.len(), &kids[0]), (2, &one));
    assert_eq!(key_files(&data), [file_of(&kids[0]), file_of(&kids[1])].into());
    clock.move_on(HOUR + HOUR / 60);
    after_a_start(&data, &clock).await;
    assert_eq!(
        key_files(&data),
        [file_of(&kids[1])].into(),
        "the operator's key is gone here"
    );
    proven(&data);
}

fn verified_by_python(token: &str, jwks: &str, now: i64) {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&scratch).unwrap();
    let Some(python) = Interpreter::python(&scratch) else {
        return;
    };
    let jwks: Value = serde_json::from_str(jwks).unwrap();
    let ask = |token: &str| -> Value {
        let told = json!({"token": token, "jwks": jwks, "audience": "cloud", "now": now});
        serde_json::from_slice(&python.run("jwt_svid.py", told.to_string().as_bytes())).unwrap()
    };
    let answer = ask(token);
    assert_eq!(answer["claims"]["sub"], "spiffe://dev.test/web");
    assert_eq!(answer["header"]["alg"], "RS256");
    let (said, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{said}.{}", signature.chars().rev().collect::<String>());
    assert!(ask(&forged)["refused"].as_str().unwrap().contains("InvalidSignature"));
}
