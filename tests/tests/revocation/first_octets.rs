//! The first octets of whoever would follow the news: other versions of TLS, other protocols, half a beginning and messages that
//! are none are refused or closed in bounded time and counted, and those who follow are not disturbed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use mintage_proto::v1::{
    RevokeRequest, WatchRequest, revocation_client::RevocationClient, revoke_request::Target, watch_news::News,
};
use mintage_tests::kit::{
    ca::{TestCa, with_metrics},
    client::{admin, anonymous, provider, settings},
    face::metric,
    http2::{DATA, End, HEADERS, LAST, PREFACE, SETTINGS, WHOLE, Wire, frame, head_of},
};
use mintage_verifier::{JoinVerifier, join_config};
use rustls::{ClientConfig, pki_types::ServerName, version::TLS12};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
const WATCH: &[u8] = b"/mintage.v1.Revocation/Watch";

async fn tcp(ca: &TestCa) -> TcpStream {
    TcpStream::connect(ca.ca.address()).await.unwrap()
}

async fn verifier(ca: &TestCa) -> Arc<JoinVerifier> {
    let token = ca.token("pins").await;
    let pins = token.root_hashes().iter().copied();
    JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).unwrap()
}

/// A connection that has done the handshake and said nothing.
async fn tls(ca: &TestCa) -> TlsStream<TcpStream> {
    let config = join_config(verifier(ca).await, &settings()).unwrap();
    let name = ServerName::try_from("mintage.invalid").unwrap();
    TlsConnector::from(config).connect(name, tcp(ca).await).await.unwrap()
}

/// Sends this, ends its own side where it is told to, and reads until the other end closes.
async fn closed(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, octets: &[u8], and_end: bool) -> Vec<u8> {
    // The other end may have closed before all was written.
    let _ = stream.write_all(octets).await;
    let _ = stream.flush().await;
    if and_end {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .expect("it is closed in time");
    answer
}

/// What a stream of Watch comes to that begins with this message in these octets.
async fn watch(ca: &TestCa, message: &[u8]) -> End {
    let mut wire = Wire::open(ca).await;
    wire.send(&frame(HEADERS, WHOLE, 1, &head_of(WATCH))).await;
    wire.send(&frame(DATA, 1, 1, message)).await;
    wire.end_of(1).await
}

/// Connections that the CA refused for this reason so far.
async fn refused(ca: &TestCa, reason: &str) -> u64 {
    let line = format!("mintage_refused_connections_total{{reason=\"{reason}\"}}");
    metric(ca.ca.metrics_address().unwrap(), &line).await
}

const GET: &[u8] = b"GET /mintage.v1.Revocation/Watch HTTP/1.1\r\nhost: x\r\n\r\n";
const GARBAGE: [u8; 64] = [0xa5; 64];

/// Without TLS, or with an old one.
async fn no_tls(ca: &TestCa) {
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for octets in [GET, &begun, &GARBAGE] {
        let answer = closed(tcp(ca).await, octets, false).await;
        // Nothing, or an alert of TLS.
        assert!(answer.first().is_none_or(|kind| *kind == 0x15), "{answer:?}");
    }
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(ca).await)
        .with_no_client_auth();
    let name = ServerName::try_from("mintage.invalid").unwrap();
    let shaken = TlsConnector::from(Arc::new(old)).connect(name, tcp(ca).await).await;
    assert!(shaken.unwrap_err().to_string().contains("ProtocolVersion"));
    assert_eq!(refused(ca, "tls").await, 4);
}

/// Within TLS, what is no beginning of HTTP/2: refused at once, but for the half of one, which is waited for.
async fn no_http2(ca: &TestCa) {
    let half = &PREFACE[..PREFACE.len() / 2];
    for octets in [GET, &GARBAGE] {
        assert!(closed(tls(ca).await, octets, false).await.is_empty());
    }
    assert!(closed(tls(ca).await, half, true).await.is_empty());
    assert_eq!((refused(ca, "preface").await, refused(ca, "timeout").await), (3, 0));
    let (one, other) = (tls(ca).await, tls(ca).await);
    let answers = tokio::join!(closed(one, half, false), closed(other, b"", false));
    assert!(answers.0.is_empty() && answers.1.is_empty());
    assert_eq!(refused(ca, "timeout").await, 2);
    // A whole beginning, and then no frame of HTTP/2.
    let answer = closed(tls(ca).await, &[PREFACE, &GARBAGE].concat(), false).await;
    assert!(!answer.is_empty(), "HTTP/2 says why it ends");
}

/// The stream's first message: longer than any, compressed, or no message at all.
async fn no_message(ca: &TestCa) {
    for message in [
        &[0, 0xff, 0xff, 0xff, 0xff, 1][..],
        &[1, 0, 0, 0, 1, 0],
        &[0, 0, 0, 0, 2, 0xff, 0xff],
        &[0, 0, 0],
        &[],
    ] {
        assert_eq!(watch(ca, message).await, End::Stream, "{message:?}");
    }
    let mut wire = Wire::open(ca).await;
    wire.send(&frame(HEADERS, LAST, 1, &head_of(WATCH))).await;
    assert_eq!(wire.end_of(1).await, End::Stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_speaks_something_else_is_closed_and_counted_and_followers_hear_on() {
    let ca = TestCa::start_with(with_metrics).await;
    let (channel, _) = anonymous(&ca.token("n1").await).await.unwrap();
    let mut client = RevocationClient::new(channel);
    let mut follower = client.watch(WatchRequest::default()).await.unwrap().into_inner();
    no_tls(&ca).await;
    no_http2(&ca).await;
    no_message(&ca).await;
    // Whoever follows hears what is revoked now.
    let mut admin = RevocationClient::new(admin(ca.ca.admin_socket()).await.unwrap());
    let request = RevokeRequest {
        target: Some(Target::Key("ab".repeat(32))),
        ..RevokeRequest::default()
    };
    admin.revoke(request).await.unwrap();
    let heard = async {
        loop {
            let news = follower.message().await.unwrap().expect("the stream goes on").news;
            if let Some(News::Delta(_)) = news {
                return;
            }
        }
    };
    timeout(SOON, heard).await.expect("the delta comes");
    ca.stop().await;
}
