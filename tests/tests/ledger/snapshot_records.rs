//! The snapshot that verifiers are given is in the ledger by its hash: once for a sequence, and the audit reads it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mintage_ledger::{Body, Record, wire::RevocationSnapshot};
use mintage_proto::v1::{
    GetRecordRequest, RevokeRequest, SearchRequest, SnapshotRequest, get_record_request::Key,
    ledger_client::LedgerClient, revocation_client::RevocationClient, revoke_request::Target,
};
use mintage_tests::kit::{
    bins::binary,
    ca::{TestCa, domain},
    client::admin,
};
use ring::digest;
use serde_json::Value;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(20);

/// The records of snapshots so far, oldest first, each with its index.
async fn records(socket: &Path) -> Vec<(u64, RevocationSnapshot)> {
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    let request = SearchRequest {
        kinds: vec!["revocation.snapshot".to_owned()],
        ..SearchRequest::default()
    };
    let found = ledger.search(request).await.unwrap().into_inner().records;
    let mut records = Vec::new();
    for row in found.iter().rev() {
        let key = Some(Key::Index(row.index));
        let record = ledger.get_record(GetRecordRequest { key }).await.unwrap().into_inner();
        let Body::RevocationSnapshot(body) = Record::decode(&record.record).unwrap().body else {
            panic!("{row:?}")
        };
        records.push((row.index, body));
    }
    records
}

/// Waits until a snapshot of this sequence is recorded.
async fn recorded(socket: &Path, sequence: u64) -> Vec<(u64, RevocationSnapshot)> {
    let began = Instant::now();
    loop {
        let found = records(socket).await;
        if found.iter().any(|(_, body)| body.sequence >= sequence) {
            return found;
        }
        assert!(began.elapsed() < SOON, "no record of sequence {sequence}: {found:?}");
        tokio::time::sleep(EVERY).await;
    }
}

async fn revoke(socket: &Path, name: &str) -> u64 {
    let request = RevokeRequest {
        target: Some(Target::SpiffeId(format!("spiffe://{}/{name}", domain()))),
        ..RevokeRequest::default()
    };
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    client.revoke(request).await.unwrap().into_inner().sequence
}

async fn served(socket: &Path) -> Vec<u8> {
    let mut client = RevocationClient::new(admin(socket).await.unwrap());
    let mut chunks = client.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

/// What `mintage` answers in JSON, with this exit code.
fn mintage(data: &Path, words: &str, code: i32) -> Value {
    let mut command = Command::new(binary("mintage"));
    command
        .arg("--data-dir")
        .arg(data)
        .args(words.split(' '))
        .args(["-o", "json"]);
    let output = command.env_remove("MINTAGE_ADMIN_SOCKET").output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{words}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_new_sequence_has_one_record_of_the_snapshot_that_is_served() {
    let ca = TestCa::start_with(|config| config.with_snapshot_records(EVERY)).await;
    let socket = ca.ca.admin_socket().to_owned();
    let first = recorded(&socket, 1).await;
    assert_eq!(first.len(), 1, "{first:?}");
    let sequence = revoke(&socket, "web").await;
    let found = recorded(&socket, sequence).await;
    let (index, last) = found.last().unwrap().clone();
    assert!(
        index > sequence && last.sequence == sequence && last.epoch == 1,
        "{last:?}"
    );
    let snapshot = served(&socket).await;
    let hash = digest::digest(&digest::SHA256, &snapshot);
    assert_eq!(last.snapshot_sha256, hash.as_ref(), "it is the one that is served");
    assert!(last.set_hash != first[0].1.set_hash && last.key_id == first[0].1.key_id);
    // Many looks later there is no other: nothing is new.
    let next = revoke(&socket, "db").await;
    let found = recorded(&socket, next).await;
    let sequences: Vec<u64> = found.iter().map(|(_, body)| body.sequence).collect();
    assert_eq!(sequences, [first[0].1.sequence, sequence, next]);

    let shown = mintage(&ca.data_dir(), &format!("audit show {index}"), 0);
    assert!(shown.to_string().contains(&hex::encode(hash.as_ref())), "{shown}");
    let data = ca.data_dir();
    let folder = ca.stop().await;
    let verdict = mintage(&data, "audit verify", 0);
    assert_eq!(verdict["records"]["revocation.snapshot"], 3, "{verdict}");

    // Another process of the same ledger records nothing anew.
    let ca = mintage_ca::Ca::start(
        mintage_tests::kit::ca::config(&data).with_snapshot_records(EVERY),
        mintage_ca::Deps::system(),
    );
    let ca = ca.await.unwrap();
    let later = revoke(ca.admin_socket(), "cache").await;
    let found = recorded(ca.admin_socket(), later).await;
    assert_eq!(found.len(), 4, "{found:?}");
    ca.stop().await;
    drop(folder);
}
