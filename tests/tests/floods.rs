//! Floods of HTTP/2 frames against the real CA: each ends its own connection, and while it lasts agents are answered and
//! new callers are taken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_proto::v1::{BundleRequest, trust_domain_client::TrustDomainClient};
use mintage_tests::kit::{
    ca::{self, TestCa},
    client::{anonymous, join},
    face::metric,
    http2::{CONTINUATION, DATA, HEADERS, PING, RST_STREAM, SETTINGS, Wire, frame, head, literal},
    stream::{Stream, ask, code},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Longest wait for a flood to be ended, and for an answer meanwhile; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// END_HEADERS.
const WHOLE: u8 = 4;
/// A frame of the type PRIORITY, which nothing needs any more (RFC 9113, section 5.3.2).
const PRIORITY: u8 = 2;

/// What each flood is, and its octets.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let odd = |n: u32| 2 * n + 1;
    let reset = (0..20_000).flat_map(|n| {
        let id = odd(n);
        [
            frame(HEADERS, WHOLE, id, &head()),
            frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    let half_open = (0..20_000).flat_map(|n| frame(HEADERS, WHOLE, odd(n), &head()));
    let filler = literal(b"x", &[b'v'; 16_000]);
    let endless = [
        frame(HEADERS, 0, 1, &head()),
        frame(CONTINUATION, 0, 1, &filler).repeat(200),
    ];
    let nothings = [
        frame(HEADERS, 0, 1, &head()),
        frame(CONTINUATION, 0, 1, &[]).repeat(50_000),
    ];
    let data = [frame(HEADERS, WHOLE, 1, &head()), frame(DATA, 0, 1, &[]).repeat(50_000)];
    // One octet of a message for each frame would be as bad.
    let padding = [
        frame(HEADERS, WHOLE, 1, &head()),
        frame(DATA, 8, 1, &[0]).repeat(50_000),
    ];
    vec![
        ("rapid reset", reset.collect()),
        ("streams left open", half_open.collect()),
        ("endless header block", endless.concat()),
        ("empty continuations", nothings.concat()),
        ("empty data", data.concat()),
        ("data of padding alone", padding.concat()),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        ("answers to pings", frame(PING, 1, 0, &[7; 8]).repeat(50_000)),
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(50_000)),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]).repeat(50_000)),
        ("frames of no known type", frame(0xbb, 0, 0, &[]).repeat(50_000)),
    ]
}

/// Sends a flood and reads along; true when the other end closed the connection over it.
async fn ends(wire: Wire, octets: Vec<u8>) -> bool {
    let (mut from, mut to) = tokio::io::split(wire.into_inner());
    let write = tokio::spawn(async move {
        let sent = to.write_all(&octets).await;
        // Held open: the end must come from the other side.
        (sent, to)
    });
    let mut sink = vec![0; 16 * 1024];
    let closed = async { while from.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
    let closed = timeout(SOON, closed).await.is_ok();
    write.abort();
    closed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_ends_its_own_connection_and_nobody_else_waits() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let probe = ca.token("probe").await;
    for (what, octets) in floods() {
        // Several at once, so that the asks below fall into the flood.
        let mut flooding = Vec::new();
        for _ in 0..4 {
            flooding.push(tokio::spawn(ends(Wire::open(&ca).await, octets.clone())));
        }
        let mut answered = 0;
        while answered == 0 || !flooding.iter().all(tokio::task::JoinHandle::is_finished) {
            let answer = timeout(SOON, stream.ask_one(ask("web")))
                .await
                .expect("an answer in time");
            assert_eq!(code(&answer.unwrap()), "", "{what}");
            let call = async {
                let (channel, _) = anonymous(&probe).await.expect("a new connection");
                TrustDomainClient::new(channel).bundle(BundleRequest::default()).await
            };
            timeout(SOON, call).await.expect("in time").expect("an answer");
            answered += 1;
        }
        println!("{what}: {answered} answers meanwhile");
        for flood in flooding {
            assert!(flood.await.unwrap(), "{what}: the connection lives on");
        }
    }
    // Those that the CA's own meter sees are counted: six of the floods above, on four connections each, and of the resets
    // whatever it saw first.
    let line = "mintage_refused_connections_total{reason=\"flood\"}";
    let counted = metric(ca.ca.metrics_address().unwrap(), line).await;
    assert!((24..=28).contains(&counted), "{counted}");
    ca.stop().await;
}
