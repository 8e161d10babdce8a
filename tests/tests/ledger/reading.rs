//! The ledger read as a stream: in order, followed without a gap, within its limits, and to its end when the CA stops.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use mintage_ledger::{Kind, Record, leaf_hash};
use mintage_proto::v1::{Entry, LedgerRecord, RecordBatch, RecordsRequest, SearchRequest, ledger_client::LedgerClient};
use mintage_tests::kit::{
    ca::{self, TestCa},
    client,
};
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// How long the CA waits for a reader that takes nothing.
const SLOW_READER_WAIT: Duration = Duration::from_secs(10);
/// Readers that the CA serves at once.
const READERS_MAX: usize = 16;

async fn ledger(ca: &TestCa) -> LedgerClient<Channel> {
    LedgerClient::new(client::admin(ca.ca.admin_socket()).await.unwrap())
}

async fn records(ca: &TestCa, request: RecordsRequest) -> Result<Streaming<RecordBatch>, Status> {
    let answer = ledger(ca).await.records(request).await;
    answer.map(tonic::Response::into_inner)
}

fn follow(from: u64) -> RecordsRequest {
    RecordsRequest {
        from,
        follow: true,
        ..RecordsRequest::default()
    }
}

async fn next(stream: &mut Streaming<RecordBatch>) -> Result<Option<RecordBatch>, Status> {
    timeout(SOON, stream.message()).await.expect("news in time")
}

/// Everything until the stream ends by itself.
async fn whole(ca: &TestCa, request: RecordsRequest) -> Vec<LedgerRecord> {
    let mut stream = records(ca, request).await.unwrap();
    let mut all = Vec::new();
    while let Some(batch) = next(&mut stream).await.unwrap() {
        all.extend(batch.records);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_comes_in_order_with_its_own_bytes_and_filtered() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    ca.token("n1").await;
    let all = whole(&ca, RecordsRequest::default()).await;
    for (index, found) in (0u64..).zip(&all) {
        assert_eq!(found.index, index);
        assert_eq!(leaf_hash(&found.record).as_bytes().as_slice(), found.leaf_hash);
    }
    let decoded: Vec<Record> = all.iter().map(|found| Record::decode(&found.record).unwrap()).collect();
    let kinds: Vec<Kind> = decoded.iter().map(Record::kind).collect();
    assert_eq!(kinds.first(), Some(&Kind::LogOpen));
    assert!(kinds.ends_with(&[Kind::EntryPut, Kind::TokenCreate]), "{kinds:?}");

    let only = RecordsRequest {
        kinds: vec!["entry.put".into(), "token.create".into()],
        ..RecordsRequest::default()
    };
    assert_eq!(whole(&ca, only).await.len(), 2);
    let times: Vec<i64> = decoded.iter().map(|record| record.time.millis()).collect();
    let last = *times.iter().max().unwrap();
    let since = RecordsRequest {
        since_ms: last,
        ..RecordsRequest::default()
    };
    assert_eq!(
        whole(&ca, since).await.len(),
        times.iter().filter(|time| **time >= last).count()
    );
    let until = RecordsRequest {
        until_ms: times[0] - 1,
        ..RecordsRequest::default()
    };
    assert!(whole(&ca, until).await.is_empty());

    let size = all.len() as u64;
    let at_end = RecordsRequest {
        from: size,
        ..RecordsRequest::default()
    };
    assert!(whole(&ca, at_end).await.is_empty());
    let unknown = RecordsRequest {
        kinds: vec!["issues".into()],
        ..RecordsRequest::default()
    };
    for bad in [follow(size + 1), unknown] {
        assert_eq!(records(&ca, bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_gets_what_is_recorded_after_it_began_and_is_told_when_the_ca_stops() {
    let ca = TestCa::start().await;
    let size = whole(&ca, RecordsRequest::default()).await.len() as u64;
    let mut stream = records(&ca, follow(size)).await.unwrap();
    let mut filtered = records(
        &ca,
        RecordsRequest {
            kinds: vec!["token.create".into()],
            ..follow(0)
        },
    )
    .await
    .unwrap();
    for n in 0..3u64 {
        ca.entry(&format!("web{n}"), &format!("/web{n}")).await;
        let batch = next(&mut stream).await.unwrap().unwrap();
        let [found] = batch.records.as_slice() else {
            panic!("{batch:?}")
        };
        assert_eq!((found.index, batch.next), (size + n, size + n + 1));
        assert_eq!(Record::decode(&found.record).unwrap().kind(), Kind::EntryPut);
    }
    ca.token("n1").await;
    let batch = next(&mut filtered).await.unwrap().unwrap();
    assert_eq!((batch.records[0].index, batch.records.len()), (size + 3, 1));

    let stopping = tokio::spawn(ca.stop());
    let told = loop {
        match next(&mut stream).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end without a word looks like the end of the log"),
            Err(status) => break status,
        }
    };
    assert_eq!(told.code(), Code::Unavailable, "{told:?}");
    assert!(told.message().contains("go on from record"), "{told:?}");
    timeout(SOON, stopping)
        .await
        .expect("the stop waits for no reader")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_beyond_the_limit_are_refused_and_a_place_that_is_left_is_free_again() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    let mut client = ledger(&ca).await;
    let mut readers = Vec::new();
    for _ in 0..READERS_MAX {
        readers.push(client.records(follow(0)).await.unwrap());
    }
    let refused = client.records(follow(0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(
        ca.metrics()
            .await
            .contains("refused_calls_total{reason=\"record_streams\"} 1")
    );
    // Other questions are answered meanwhile.
    client.search(SearchRequest::default()).await.unwrap();
    readers.pop();
    let begun = Instant::now();
    while let Err(refused) = client.records(follow(0)).await {
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(begun.elapsed() < SOON, "a place that was left stays taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(readers);
    ca.stop().await;
}

/// A reader that takes in no more than 64 KB unless it is asked for more.
async fn narrow(socket: &Path) -> LedgerClient<Channel> {
    let socket: PathBuf = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://mintage.invalid")
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535);
    LedgerClient::new(endpoint.connect_with_connector(connect).await.unwrap())
}

/// Fills the log with `count` times 6 KB.
async fn fill(ca: &TestCa, count: usize) {
    let label = "x".repeat(60);
    let names = |n: usize| {
        (0..32)
            .map(|m| format!("n{n}-{m}.{label}.{label}.{label}.test"))
            .collect()
    };
    let entry = |n: usize| Entry {
        name: format!("big{n}"),
        spiffe_id: format!("spiffe://dev.test/big{n}"),
        agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
        selectors: vec!["unix:uid:1".into()],
        dns_names: names(n),
        ..Entry::default()
    };
    ca::apply(ca.ca.admin_socket(), (0..count).map(entry).collect())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_is_let_go_and_told_where_to_go_on() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    fill(&ca, 500).await;
    let all = whole(&ca, RecordsRequest::default()).await;
    let mut sleeper = narrow(ca.ca.admin_socket())
        .await
        .records(follow(0))
        .await
        .unwrap()
        .into_inner();
    let begun = Instant::now();
    let cut = async {
        while !ca.metrics().await.contains("streams_cut_total 1") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SLOW_READER_WAIT + SOON, cut)
        .await
        .expect("a sleeper is let go");
    assert!(begun.elapsed() >= SLOW_READER_WAIT);
    let (mut got, mut at) = (Vec::new(), 0);
    let told = loop {
        match next(&mut sleeper).await {
            Ok(Some(batch)) => {
                got.extend(batch.records);
                at = batch.next;
            }
            Ok(None) => panic!("an end without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(told.code(), Code::Aborted, "{told:?}");
    assert!(
        !got.is_empty() && got.len() < all.len(),
        "{} of {}",
        got.len(),
        all.len()
    );
    assert!(told.message().contains(&format!("from record {at}")), "{told:?}, {at}");
    let rest = RecordsRequest {
        from: at,
        ..RecordsRequest::default()
    };
    got.extend(whole(&ca, rest).await);
    assert!(got == all, "nothing is lost and nothing comes twice");
    ca.stop().await;
}
