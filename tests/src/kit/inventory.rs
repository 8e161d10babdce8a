//! What the ledger holds, asked as an administrator asks.

use std::path::Path;

use mintage_ledger::wire::{Deny, Record, record::Body};
use mintage_proto::v1::{
    GetRecordRequest, Page, RecordSummary, SearchRequest, get_record_request::Key, ledger_client::LedgerClient,
};
use prost::Message as _;

use super::client::admin;

/// Rows of one page; whoever looks for more than fit is told.
const ROWS: u32 = 1000;

/// Every record of a kind, newest first; about `entry` where it is not empty.
///
/// # Panics
///
/// When they fill more than a page.
pub async fn records(socket: &Path, kind: &str, entry: &str) -> Vec<RecordSummary> {
    let search = SearchRequest {
        kinds: vec![kind.to_owned()],
        entry: entry.to_owned(),
        page: Some(Page {
            limit: ROWS,
            ..Page::default()
        }),
        ..SearchRequest::default()
    };
    let mut ledger = LedgerClient::new(admin(socket).await.expect("the admin socket answers"));
    let found = ledger.search(search).await.expect("a search").into_inner();
    assert!(found.next.is_empty(), "more than one page of {kind} {entry}");
    found.records
}

/// Every certificate that the ledger has for an entry.
pub async fn issued(socket: &Path, entry: &str) -> Vec<RecordSummary> {
    records(socket, "issue", entry).await
}

/// One record as it stands.
pub async fn record(socket: &Path, index: u64) -> Record {
    let mut ledger = LedgerClient::new(admin(socket).await.expect("the admin socket answers"));
    let key = Some(Key::Index(index));
    let answer = ledger.get_record(GetRecordRequest { key }).await.expect("a record");
    Record::decode(answer.into_inner().record.as_slice()).expect("a record of the ledger")
}

/// The deny records of one code, whole. A note stands in the ledger before whatever is asked for after it: an ask that was
/// answered in between makes sure that it can be found.
pub async fn denials(socket: &Path, code: &str) -> Vec<(Record, Deny)> {
    let mut denials = Vec::new();
    for summary in records(socket, "deny", "").await {
        let record = record(socket, summary.index).await;
        match record.body.clone() {
            Some(Body::Deny(deny)) if deny.code == code => denials.push((record, deny)),
            Some(Body::Deny(_)) => {}
            other => panic!("a search for denials found {other:?}"),
        }
    }
    denials
}
