//! Metadata that is garbage: binary values that are not base64, octets that no header may have, header blocks that cannot
//! be decoded. The call is refused, or its stream or connection ends; everybody else is served on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_proto::v1::{BundleRequest, node_client::NodeClient, trust_domain_client::TrustDomainClient};
use mintage_tests::kit::{
    ca::TestCa,
    client::{Joined, anonymous, join, provider, settings},
    stream::{Stream, ask, code},
};
use mintage_verifier::{JoinVerifier, join_config};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request, Status,
    codegen::http::{self, HeaderName, HeaderValue},
    transport::Channel,
};
use tower::Service;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// Frames of HTTP/2 (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// END_HEADERS, and END_HEADERS with END_STREAM.
const WHOLE: u8 = 4;
const LAST: u8 = 5;
/// An empty message of gRPC.
const EMPTY: [u8; 5] = [0; 5];

/// Calls `Bundle`, which anybody may, with one more header; `Ok` when it was answered.
async fn bundle_with(channel: &Channel, name: &str, value: &[u8]) -> Result<(), Status> {
    let request = http::Request::post("http://mintage.invalid/mintage.v1.TrustDomain/Bundle")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value).unwrap(),
        )
        .body(tonic::body::Body::new(String::from_utf8(EMPTY.to_vec()).unwrap()))
        .unwrap();
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let answer = timeout(SOON, channel.call(request)).await.unwrap().unwrap();
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_metadata_that_is_not_base64_is_refused_before_the_handler() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent = join(&ca.token("n1").await).await.unwrap();
    let address = ca.ca.address().to_string();
    let mut stream = Stream::open(&agent, &address).await.unwrap();
    let (channel, _) = anonymous(&ca.token("n2").await).await.unwrap();
    for good in ["AAEC", "AA", "AA==", "AA,AAE=, AAEC", ""] {
        bundle_with(&channel, "x-trace-bin", good.as_bytes()).await.unwrap();
    }
    for (name, value) in [
        ("x-trace-bin", b"!!!!".as_slice()),
        ("x-trace-bin", b"A"),
        ("x-trace-bin", b"AA=A"),
        ("x-trace-bin", b"AAEC,?"),
        ("x-trace-bin", b"\xff\xfe\x80"),
        ("grpc-trace-bin", b"not base64"),
        ("x-text", b"caf\xe9"),
        ("x-text", b"\x80\xff"),
    ] {
        let refused = bundle_with(&channel, name, value).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused:?}");
        assert!(refused.message().contains(name), "{refused:?}");
        bundle_with(&channel, "x-text", b"plain").await.unwrap();
    }
    // A stream is refused by the same gate, and the agent's open one goes on.
    let (channel, _) = agent.channel(&address).await.unwrap();
    let mut request = Request::new(tokio_stream::pending());
    let garbage = HeaderValue::from_static("!!!!");
    let mut headers = std::mem::take(request.metadata_mut()).into_headers();
    headers.insert("x-trace-bin", garbage);
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    let refused = timeout(SOON, NodeClient::new(channel).sync(request)).await.unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "");
    ca.stop().await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// POST of an RPC that anybody may call, as HPACK literals (RFC 7541, appendix A).
fn head() -> Vec<u8> {
    let (path, content) = (
        b"/mintage.v1.TrustDomain/Bundle".as_slice(),
        b"application/grpc".as_slice(),
    );
    let length = |text: &[u8]| u8::try_from(text.len()).expect("a short text");
    let (path_length, content_length) = (length(path), length(content));
    [
        &[0x83, 0x87, 0x04, path_length],
        path,
        &[0x0f, 0x10, content_length],
        content,
    ]
    .concat()
}

/// A header as a literal that nobody has looked at.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).expect("a short text");
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// What a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Only the stream ended.
    Stream,
    /// The whole connection did.
    Connection,
}

/// A connection on which nothing is put right before it is sent.
struct Wire(TlsStream<TcpStream>);

impl Wire {
    async fn open(ca: &TestCa) -> Self {
        let token = ca.token("raw").await;
        let pins = token.root_hashes().iter().copied();
        let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).unwrap();
        let tls = join_config(verifier, &settings()).unwrap();
        let stream = TcpStream::connect(ca.ca.address()).await.unwrap();
        let name = ServerName::try_from("mintage.invalid").unwrap();
        let mut stream = TlsConnector::from(tls).connect(name, stream).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let preface = [preface.as_slice(), &frame(SETTINGS, 0, 0, &[])].concat();
        stream.write_all(&preface).await.unwrap();
        Self(stream)
    }

    async fn send(&mut self, octets: &[u8]) {
        // The other end may have closed already; what it said before is read afterwards.
        let _ = self.0.write_all(octets).await;
    }

    /// The next frame: kind and stream; `None` once the connection has ended.
    async fn next(&mut self) -> Option<(u8, u32)> {
        let mut start = [0; 9];
        timeout(SOON, self.0.read_exact(&mut start)).await.unwrap().ok()?;
        let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
        let mut payload = vec![0; length as usize];
        timeout(SOON, self.0.read_exact(&mut payload)).await.unwrap().ok()?;
        let stream = u32::from_be_bytes([start[5], start[6], start[7], start[8]]);
        Some((start[3], stream & 0x7fff_ffff))
    }

    /// Waits for the refusal of a stream, and holds that it was never answered.
    async fn refusal_of(&mut self, stream: u32) -> End {
        loop {
            match self.next().await {
                None | Some((GOAWAY, _)) => return End::Connection,
                Some((RST_STREAM, id)) if id == stream => return End::Stream,
                Some((HEADERS | DATA, id)) if id == stream => panic!("garbage was answered"),
                Some(_) => {}
            }
        }
    }

    /// Makes a call as it should be and waits for the start of its answer.
    async fn is_served(&mut self, stream: u32) {
        self.send(&frame(HEADERS, WHOLE, stream, &head())).await;
        self.send(&frame(DATA, 1, stream, &EMPTY)).await;
        loop {
            match self.next().await {
                Some((HEADERS, id)) if id == stream => return,
                Some((RST_STREAM | GOAWAY, _)) | None => panic!("a good call on the same connection was not served"),
                Some(_) => {}
            }
        }
    }
}

/// What follows a good head, and whether the connection must end over it (RFC 9113, section 4.3: a block that cannot be
/// decoded leaves both ends with different tables).
fn garbage() -> Vec<(&'static str, Vec<u8>, Option<End>)> {
    let stream = Some(End::Stream);
    let connection = Some(End::Connection);
    vec![
        ("NUL in a binary value", literal(b"x-trace-bin", b"AA\0A"), None),
        ("line break in a value", literal(b"x-text", b"a\r\nx-evil: b"), None),
        ("DEL in a value", literal(b"x-text", &[0x7f]), None),
        ("upper-case name", literal(b"X-Text", b"a"), None),
        ("blank in a name", literal(b"x text", b"a"), None),
        ("empty name", literal(b"", b"a"), None),
        ("NUL in a name", literal(b"x\0y", b"a"), None),
        ("octet above ASCII in a name", literal(b"x\xff", b"a"), None),
        ("pseudo-header after others", literal(b":path", b"/x"), stream),
        ("header of a connection", literal(b"connection", b"close"), stream),
        ("index 0", vec![0x80], connection),
        ("index beyond the table", vec![0xff, 0x80, 0x80, 0x01], connection),
        ("integer without an end", vec![0xff; 12], connection),
        ("value cut off", vec![0, 3, b'x', b'-', b'a', 0x7f, b'v'], connection),
        (
            "Huffman code of the end",
            [literal(b"x-a", b"")[..5].to_vec(), vec![0x84], vec![0xff; 4]].concat(),
            connection,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn octets_that_no_header_may_have_end_their_stream_or_connection_alone() {
    let ca = TestCa::start().await;
    ca.entry("web", "/web").await;
    let agent: Joined = join(&ca.token("n1").await).await.unwrap();
    let mut stream = Stream::open(&agent, &ca.ca.address().to_string()).await.unwrap();
    let (other, _) = anonymous(&ca.token("n2").await).await.unwrap();
    Wire::open(&ca).await.is_served(1).await;
    for (what, octets, wanted) in garbage() {
        let mut wire = Wire::open(&ca).await;
        let block = [head(), octets].concat();
        wire.send(&frame(HEADERS, LAST, 1, &block)).await;
        let end = wire.refusal_of(1).await;
        assert!(wanted.is_none_or(|wanted| wanted == end), "{what}: {end:?}");
        if end == End::Stream {
            wire.is_served(3).await;
        }
        println!("{what}: {end:?}");
        assert_eq!(code(&stream.ask_one(ask("web")).await.unwrap()), "", "{what}");
        let asked = TrustDomainClient::new(other.clone())
            .bundle(BundleRequest::default())
            .await;
        assert!(asked.is_ok(), "{what}: {asked:?}");
    }
    ca.stop().await;
}
