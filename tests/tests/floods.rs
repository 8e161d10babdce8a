//! Floods of HTTP/2 frames against the real CA: each ends its own connection, and while it lasts agents are answered and
//! new callers are taken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_proto::v1::{BundleRequest, trust_domain_client::TrustDomainClient};
use mintage_tests::kit::{
    ca::{self, TestCa},
    client::{anonymous, join},
    face::metric,
    http2::{Flood, Wire, ends, floods, head},
    stream::{Stream, ask, code},
};
use tokio::time::timeout;

/// Longest wait for a flood to be ended, and for an answer meanwhile; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_ends_its_own_connection_and_nobody_else_waits() {
    let ca = TestCa::start_with(ca::with_metrics).await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let probe = ca.token("probe").await;
    for flood in floods(&head()) {
        // The CA ends each of them.
        let flood = Flood {
            must_end: true,
            ..flood
        };
        let what = flood.what;
        // Several at once, so that the asks below fall into the flood.
        let mut flooding = Vec::new();
        for _ in 0..4 {
            flooding.push(tokio::spawn(ends(Wire::open(&ca).await.into_inner(), flood.clone())));
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
