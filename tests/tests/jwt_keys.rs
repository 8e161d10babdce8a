//! The keys of JWT-SVIDs over months: made, published before they sign, changed, and taken out of the bundle; in the ledger of the
//! real CA under a clock that is moved.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Arc, time::Duration};

use mintage_ca::Ca;
use mintage_proto::v1::{BundleRequest, JwtAsk, JwtResult, TrustBundle, trust_domain_client::TrustDomainClient};
use mintage_svid::JwtSvid;
use mintage_tests::kit::{
    bins::binary,
    ca::{config, entry, make_with, token},
    client::{admin, join, random},
    clock::Shifted,
    stream::Stream,
};

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

fn file(kid: &str) -> String {
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
    assert_eq!(key_files(&data), [file(&one), file(&two)].into());

    clock.move_on(HOUR);
    assert_eq!(after_a_start(&data, &clock).await, (3, vec![one.clone(), two.clone()]));
    assert_eq!(key_files(&data), [file(&two)].into(), "what signs no more is destroyed");

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
    fs::remove_file(data.join("keys").join(file(&keys[0]))).unwrap();
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
        if gone && now.len() == 1 && key_files(&data) == [file(&now[0].kid)].into() {
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
