//! An agent gets what its own entries allow at the moment of the record: not another agent's entry, and nothing of an entry
//! once its deletion is in the ledger, however closely the two race.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_proto::v1::{DeleteEntryRequest, GetRecordRequest, get_record_request::Key, ledger_client::LedgerClient};
use mintage_svid::LeafInfo;
use mintage_tests::kit::{
    ca::{TestCa, entry_of},
    client::{admin, join, registry},
    inventory::issued,
    stream::{Stream, ask, code},
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tonic::Code;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// Entries that are deleted under the asks for them.
const ROUNDS: usize = 8;
/// Asks in one message; several of them stand between decision and record when the deletion comes.
const BATCH: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_another_agent_is_refused_and_stays_usable_by_its_own() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let address = ca.ca.address().to_string();
    let one = join(&ca.token("n1").await).await.unwrap();
    let two = join(&ca.token("n2").await).await.unwrap();
    entry_of(socket, "db", "n2").await;
    let mut stranger = Stream::open(&one, &address).await.unwrap();
    let refused = stranger.ask_one(ask("db")).await.unwrap();
    let refusal = refused.refusal.as_ref().expect("a refusal");
    assert_eq!(
        (refusal.code.as_str(), refusal.grpc_code),
        ("entry-not-for-agent", Code::PermissionDenied as u32)
    );
    assert!(refused.leaf.is_empty() && refused.receipt.is_none());
    assert!(issued(socket, "db").await.is_empty());
    let mut owner = Stream::open(&two, &address).await.unwrap();
    let leaf = LeafInfo::parse(&owner.ask_one(ask("db")).await.unwrap().leaf).unwrap();
    assert_eq!(leaf.id().as_str(), "spiffe://dev.test/db");
    let records = issued(socket, "db").await;
    assert_eq!((records.len(), records[0].agent.as_str()), (1, "n2"));
    ca.stop().await;
}

/// Asks for one entry again and again until all of a batch is refused; returns the ledger indices of what it got. Tells
/// of each answered batch.
async fn ask_until_refused(
    mut stream: Stream,
    entry: String,
    answered: mpsc::UnboundedSender<()>,
) -> (Stream, Vec<u64>) {
    let mut got = Vec::new();
    loop {
        stream.ask((0..BATCH).map(|_| ask(&entry)).collect()).await.unwrap();
        let results = stream.minted().await.unwrap();
        let before = got.len();
        for result in &results {
            match &result.refusal {
                None => got.push(result.receipt.as_ref().expect("a receipt").index),
                Some(refusal) => {
                    assert_eq!(
                        (refusal.code.as_str(), refusal.grpc_code),
                        ("entry-unknown", Code::NotFound as u32)
                    );
                    assert!(result.leaf.is_empty() && result.receipt.is_none());
                }
            }
        }
        // Whoever listens may have heard enough.
        let _ = answered.send(());
        if got.len() == before {
            return (stream, got);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_of_a_deleted_entry_stands_after_its_deletion() {
    let ca = TestCa::start().await;
    let socket = ca.ca.admin_socket();
    let mut streams = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        let agent = join(&ca.token(name).await).await.unwrap();
        streams.push(Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap());
    }
    let mut ledger = LedgerClient::new(admin(socket).await.unwrap());
    for round in 0..ROUNDS {
        let entry = format!("web-{round}");
        ca.entry(&entry, &format!("/{entry}")).await;
        let (answered, mut heard) = mpsc::unbounded_channel();
        let mut asking = JoinSet::new();
        for stream in streams.drain(..) {
            asking.spawn(ask_until_refused(stream, entry.clone(), answered.clone()));
        }
        // Deleted in the middle of it: every stream has asks under way by then.
        for _ in 0..4 + round {
            heard.recv().await.unwrap();
        }
        let request = DeleteEntryRequest {
            name: entry.clone(),
            dry_run: false,
        };
        let deleted = registry(socket).await.delete_entry(request).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(ended) = timeout(SOON, asking.join_next())
            .await
            .expect("every stream hears of it")
        {
            let (mut stream, indices) = ended.unwrap();
            assert_eq!(code(&stream.ask_one(ask(&entry)).await.unwrap()), "entry-unknown");
            got.extend(indices);
            streams.push(stream);
        }
        let key = Some(Key::Index(deleted.index));
        let record = ledger.get_record(GetRecordRequest { key }).await.unwrap().into_inner();
        assert_eq!(record.summary.unwrap().kind, "entry.delete");
        let records = issued(socket, &entry).await;
        for record in &records {
            assert!(
                record.index < deleted.index,
                "{record:?} stands after {}",
                deleted.index
            );
            assert_eq!(record.state, "revoked", "{record:?}");
        }
        assert!(!got.is_empty(), "the race had no first half");
        got.sort_unstable();
        let mut recorded: Vec<u64> = records.iter().map(|record| record.index).collect();
        recorded.sort_unstable();
        assert_eq!(got, recorded, "what was handed out is what is recorded");
        assert_eq!(deleted.revoked_certificates, records.len() as u64);
    }
    ca.stop().await;
}
