//! A deleted entry takes its certificates with it: in one group of records, and where a crash left some behind, at the
//! next start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use mintage_ca::{Ca, Deps};
use mintage_identity::{ReplicaName, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Body, FileJournal, Journal, OpenOptions, Record, wire::EntryDelete};
use mintage_proto::v1::{
    DeleteEntryRequest, ListRevocationsRequest, RevocationItem, ShowEntryRequest, WatchRequest,
    revocation_client::RevocationClient,
};
use mintage_tests::kit::{
    ca::{config, domain, entry, make, token},
    client::{admin, join, random, registry},
    inventory::issued,
    stream::{Stream, ask},
};
use tokio::time::timeout;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

async fn revocations(ca: &Ca) -> Vec<RevocationItem> {
    let mut revocation = RevocationClient::new(admin(ca.admin_socket()).await.unwrap());
    let listed = revocation.list_revocations(ListRevocationsRequest::default()).await;
    listed.unwrap().into_inner().items
}

/// Asks for a certificate of entry `web` for a new agent.
async fn one_certificate(ca: &Ca, agent: &str) {
    let agent = join(&token(ca.admin_socket(), agent).await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.address().to_string()).await.unwrap();
    assert!(stream.ask_one(ask("web")).await.unwrap().refusal.is_none());
}

/// Deletes the entry at `revision` in the ledger alone, as a CA that was killed before it revoked anything had done.
fn deleted_and_killed(dir: &Path, revision: u64) {
    let journal = FileJournal::open(&dir.join("ledger"), OpenOptions::default()).unwrap();
    let id = SpiffeId::replica(&domain(), &ReplicaName::parse("ca-1").unwrap());
    let record = Record {
        time: UnixTime::from_seconds(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64),
        salt: random(),
        actor: Actor::Replica { id },
        attestation: None,
        request_id: None,
        replica: "ca-1".to_owned(),
        control_seen: 0,
        body: Body::EntryDelete(EntryDelete {
            name: "web".to_owned(),
            revision,
        }),
    };
    journal
        .append(&[record.encode().unwrap()], journal.control_head())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_and_revocation_are_one_group_of_records() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let ca = Ca::start(config(&dir), Deps::system()).await.unwrap();
    entry(ca.admin_socket(), "web", "/web").await;
    one_certificate(&ca, "n1").await;
    let request = |dry_run| DeleteEntryRequest {
        name: "web".to_owned(),
        dry_run,
    };
    let mut registry = registry(ca.admin_socket()).await;
    let dry = registry.delete_entry(request(true)).await.unwrap().into_inner();
    assert_eq!((dry.index, dry.revoked_certificates), (0, 1));
    assert!(revocations(&ca).await.is_empty());
    let deleted = registry.delete_entry(request(false)).await.unwrap().into_inner();
    let items = revocations(&ca).await;
    assert_eq!((items.len(), deleted.revoked_certificates), (1, 1));
    assert_eq!(items[0].index + 1, deleted.index, "nothing lies between the two");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_unrevoked_is_revoked_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    make(&dir);
    let ca = Ca::start(config(&dir), Deps::system()).await.unwrap();
    entry(ca.admin_socket(), "web", "/web").await;
    one_certificate(&ca, "n1").await;
    let name = "web".to_owned();
    let shown = registry(ca.admin_socket())
        .await
        .show_entry(ShowEntryRequest { name })
        .await;
    let revision = shown.unwrap().into_inner().entry.unwrap().revision;
    ca.stop().await;
    deleted_and_killed(&dir, revision);

    let ca = Ca::start(config(&dir), Deps::system()).await.unwrap();
    let mut revocation = RevocationClient::new(admin(ca.admin_socket()).await.unwrap());
    let mut news = revocation.watch(WatchRequest::default()).await.unwrap().into_inner();
    // Each news is a moment to look again; a heartbeat comes at least every five seconds.
    let struck = timeout(SOON, async {
        loop {
            news.message().await.unwrap().unwrap();
            let items = revocations(&ca).await;
            if !items.is_empty() {
                return items;
            }
        }
    });
    let struck = struck.await.expect("the orphan is found");
    drop(news);
    assert_eq!((struck.len(), struck[0].scope.as_str()), (1, "entry web"));
    assert_eq!(struck[0].certificates, 1);
    let records = issued(ca.admin_socket(), "web").await;
    assert!(records.iter().all(|record| record.state == "revoked"), "{records:?}");
    ca.stop().await;
}
