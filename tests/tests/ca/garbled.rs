//! Metadata that is garbage: binary values that are not base64, octets that no header may have, header blocks that cannot
//! be decoded. The call is refused, or its stream or connection ends; everybody else is served on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_proto::v1::{BundleRequest, node_client::NodeClient, trust_domain_client::TrustDomainClient};
use mintage_tests::kit::{
    ca::TestCa,
    client::{Joined, anonymous, join},
    http2::{EMPTY, End, HEADERS, LAST, Wire, frame, head, head_size, listed, literal},
    stream::{Stream, ask, code},
};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    codegen::http::{self, HeaderName, HeaderValue},
    transport::Channel,
};
use tower::Service;

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
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
    assert_eq!(Wire::open(&ca).await.call(1, &[]).await, End::Served);
    for (what, octets, wanted) in garbage() {
        let mut wire = Wire::open(&ca).await;
        let block = [head(), octets].concat();
        wire.send(&frame(HEADERS, LAST, 1, &block)).await;
        let end = wire.end_of(1).await;
        assert!(wanted.is_none_or(|wanted| wanted == end), "{what}: {end:?}");
        assert_ne!(end, End::Served, "{what}");
        if end == End::Stream {
            assert_eq!(wire.call(3, &[]).await, End::Served, "{what}");
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

/// Bytes of one header list.
const HEADER_LIST_BYTES_MAX: usize = 16 * 1024;

/// Headers of this size on top of the others.
type Shape<'a> = &'a dyn Fn(usize) -> Vec<u8>;

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_of_exactly_the_limit_is_served_and_one_byte_more_is_refused() {
    let ca = TestCa::start().await;
    let filled = |size: usize| {
        let value = vec![b'v'; size - head_size() - listed(b"x-filler", b"")];
        literal(b"x-filler", &value)
    };
    // Many small ones count as much as one large one: 32 bytes each beside their texts.
    let many = |size: usize| {
        let room = size - head_size();
        let (count, rest) = (room / listed(b"x", b""), room % listed(b"x", b""));
        [literal(b"x", b"").repeat(count - 1), literal(b"x", &vec![b'v'; rest])].concat()
    };
    let mut wire = Wire::open(&ca).await;
    let shapes: [(&str, Shape<'_>); 2] = [("one", &filled), ("many", &many)];
    let mut streams = (1..).step_by(2);
    for (what, of_size) in shapes {
        for (size, end) in [
            (HEADER_LIST_BYTES_MAX - 1, End::Served),
            (HEADER_LIST_BYTES_MAX, End::Served),
            (HEADER_LIST_BYTES_MAX + 1, End::Stream),
            (HEADER_LIST_BYTES_MAX + 100, End::Stream),
            (HEADER_LIST_BYTES_MAX, End::Served),
        ] {
            let stream = streams.next().expect("streams without end");
            assert_eq!(wire.call(stream, &of_size(size)).await, end, "{what}: {size}");
        }
    }
    ca.stop().await;
}
