//! HTTP/2 frame by frame (RFC 9113), on a connection where nothing is put right before it is sent.

use std::time::Duration;

use mintage_verifier::{JoinVerifier, join_config};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ca::TestCa,
    client::{provider, settings},
};

/// Longest wait for what should happen at once; the machine may be busy.
const SOON: Duration = Duration::from_secs(30);
/// How a client begins to speak (section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Types of frames (section 6).
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;
/// END_HEADERS, and END_HEADERS with END_STREAM.
pub const WHOLE: u8 = 4;
/// See [`WHOLE`].
pub const LAST: u8 = 5;
/// An empty message of gRPC.
pub const EMPTY: [u8; 5] = [0; 5];

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The path of an RPC that anybody may call, and its type of content.
const PATH: &[u8] = b"/mintage.v1.TrustDomain/Bundle";
const CONTENT: &[u8] = b"application/grpc";

/// POST of that RPC, as HPACK literals (RFC 7541, appendix A).
pub fn head() -> Vec<u8> {
    head_of(PATH)
}

/// The same of the RPC with this path.
pub fn head_of(path: &[u8]) -> Vec<u8> {
    [
        &[0x83, 0x87, 0x04],
        text(path).as_slice(),
        &[0x0f, 0x10],
        &text(CONTENT),
    ]
    .concat()
}

/// The bytes of [`head`] as a limit on header lists counts them (section 6.5.2).
pub fn head_size() -> usize {
    let method = listed(b":method", b"POST") + listed(b":scheme", b"https");
    method + listed(b":path", PATH) + listed(b"content-type", CONTENT)
}

/// The bytes of one header as that limit counts them.
pub fn listed(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + 32
}

/// A header as a literal that nobody has looked at.
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], text(name).as_slice(), &text(value)].concat()
}

/// A text with its length in front (RFC 7541, section 5).
fn text(octets: &[u8]) -> Vec<u8> {
    const PREFIX_MAX: usize = 0x7f;
    let mut out = Vec::new();
    match octets.len().checked_sub(PREFIX_MAX) {
        None => out.push(octets.len() as u8),
        Some(mut rest) => {
            out.push(PREFIX_MAX as u8);
            while rest >= 0x80 {
                out.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
    }
    [out.as_slice(), octets].concat()
}

/// A frame of the type PRIORITY, which nothing needs any more (RFC 9113, section 5.3.2).
const PRIORITY: u8 = 2;

/// A flood of frames after the preface and the first SETTINGS.
#[derive(Clone, Debug)]
pub struct Flood {
    /// What it is.
    pub what: &'static str,
    /// All its octets.
    pub octets: Vec<u8>,
    /// False where a server may as well refuse each of its streams and let the connection live: those that are only left
    /// open hold what the limit on streams grants.
    pub must_end: bool,
}

/// Every flood, with calls that have this head.
pub fn floods(head: &[u8]) -> Vec<Flood> {
    let odd = |n: u32| 2 * n + 1;
    let reset = (0..20_000).flat_map(|n| {
        let (id, cancel) = (odd(n), [0, 0, 0, 8]);
        [frame(HEADERS, WHOLE, id, head), frame(RST_STREAM, 0, id, &cancel)].concat()
    });
    let half_open = (0..20_000).flat_map(|n| frame(HEADERS, WHOLE, odd(n), head));
    let filler = literal(b"x", &[b'v'; 16_000]);
    let after = |first: Vec<u8>, then: Vec<u8>, times: usize| [first, then.repeat(times)].concat();
    let begun = || frame(HEADERS, 0, 1, head);
    let asked = || frame(HEADERS, WHOLE, 1, head);
    let flood = |what, octets| Flood {
        what,
        octets,
        must_end: true,
    };
    vec![
        flood("rapid reset", reset.collect()),
        Flood {
            must_end: false,
            ..flood("streams left open", half_open.collect())
        },
        flood(
            "endless header block",
            after(begun(), frame(CONTINUATION, 0, 1, &filler), 200),
        ),
        flood(
            "empty continuations",
            after(begun(), frame(CONTINUATION, 0, 1, &[]), 50_000),
        ),
        flood("empty data", after(asked(), frame(DATA, 0, 1, &[]), 50_000)),
        // One octet of a message for each frame would be as bad.
        flood("data of padding alone", after(asked(), frame(DATA, 8, 1, &[0]), 50_000)),
        flood("pings", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        flood("answers to pings", frame(PING, 1, 0, &[7; 8]).repeat(50_000)),
        flood("settings", frame(SETTINGS, 0, 0, &[]).repeat(50_000)),
        flood("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]).repeat(50_000)),
        flood("frames of no known type", frame(0xbb, 0, 0, &[]).repeat(50_000)),
    ]
}

/// Sends a flood on a connection that has begun, and reads along; true when the other end closed it, or, for one that need
/// not be ended, took all of it.
pub async fn ends(stream: impl AsyncRead + AsyncWrite + Send + 'static, flood: Flood) -> bool {
    let (mut from, mut to) = tokio::io::split(stream);
    let write = tokio::spawn(async move {
        let sent = to.write_all(&flood.octets).await;
        if !flood.must_end {
            let _ = to.shutdown().await;
        }
        // Held open where the end must come from the other side.
        (sent, to)
    });
    let mut sink = vec![0; 16 * 1024];
    let closed = async { while from.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
    let closed = timeout(SOON, closed).await.is_ok();
    write.abort();
    closed
}

/// What a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was answered with a message.
    Served,
    /// Only the stream ended.
    Stream,
    /// The whole connection did.
    Connection,
}

/// A connection to the CA's agent port, by somebody unknown.
#[derive(Debug)]
pub struct Wire(TlsStream<TcpStream>);

impl Wire {
    /// Connects and begins to speak.
    pub async fn open(ca: &TestCa) -> Self {
        let token = ca.token("raw").await;
        let pins = token.root_hashes().iter().copied();
        let verifier = JoinVerifier::new(token.trust_domain().clone(), pins, &provider()).expect("the token has pins");
        let tls = join_config(verifier, &settings()).expect("a TLS configuration");
        let stream = TcpStream::connect(ca.ca.address()).await.expect("a connection");
        let name = ServerName::try_from("mintage.invalid").expect("a name");
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        let mut wire = Self(stream.expect("a handshake"));
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        wire
    }

    /// The stream below.
    pub fn into_inner(self) -> TlsStream<TcpStream> {
        self.0
    }

    /// Sends octets as they are.
    pub async fn send(&mut self, octets: &[u8]) {
        // The other end may have closed already; what it said before is read afterwards.
        let _ = self.0.write_all(octets).await;
    }

    /// The next frame: kind, flags and stream; `None` once the connection has ended.
    pub async fn next(&mut self) -> Option<(u8, u8, u32)> {
        let mut start = [0; 9];
        timeout(SOON, self.0.read_exact(&mut start)).await.unwrap().ok()?;
        let length = u32::from_be_bytes([0, start[0], start[1], start[2]]);
        let mut payload = vec![0; length as usize];
        timeout(SOON, self.0.read_exact(&mut payload)).await.unwrap().ok()?;
        let stream = u32::from_be_bytes([start[5], start[6], start[7], start[8]]);
        Some((start[3], start[4], stream & 0x7fff_ffff))
    }

    /// Waits for the end of a stream that asked for one message.
    pub async fn end_of(&mut self, stream: u32) -> End {
        loop {
            match self.next().await {
                None | Some((GOAWAY, ..)) => return End::Connection,
                Some((DATA, _, id)) if id == stream => return End::Served,
                // Headers that end the stream are a refusal, whether of HTTP or of gRPC.
                Some((HEADERS, flags, id)) if id == stream && flags & 1 == 1 => return End::Stream,
                Some((RST_STREAM, _, id)) if id == stream => return End::Stream,
                Some(_) => {}
            }
        }
    }

    /// Makes a call with more in its head; what became of it.
    pub async fn call(&mut self, stream: u32, more: &[u8]) -> End {
        let block = [head(), more.to_vec()].concat();
        self.send(&frame(HEADERS, WHOLE, stream, &block)).await;
        self.send(&frame(DATA, 1, stream, &EMPTY)).await;
        self.end_of(stream).await
    }
}
