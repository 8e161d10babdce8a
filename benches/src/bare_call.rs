//! A caller of `FetchX509SVID` that has everything ready before the clock starts and does nothing but the system calls of the
//! call itself: connect, one write, reads until the first message is whole. What it measures is the agent's time and the
//! kernel's, not a client library's.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use mintage_proto::workload::X509svidResponse;
use prost::Message;

use crate::load::Failure;

/// Longest wait for an octet.
const WAIT: Duration = Duration::from_secs(20);
/// What an HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Types of frames (RFC 9113, section 6), and the flags that are used here.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// Octets of a frame's head.
const HEAD: usize = 9;
/// Octets before a gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The most octets that are read: the window that a server may fill unasked.
const ANSWER_BYTES_MAX: usize = 65_535;

/// The whole call as it is sent: preface, settings without any, the head, and an empty message.
#[derive(Debug)]
pub struct BareCall(Vec<u8>);

impl Default for BareCall {
    fn default() -> Self {
        let mut octets = PREFACE.to_vec();
        frame(&mut octets, SETTINGS, 0, 0, &[]);
        frame(&mut octets, HEADERS, END_HEADERS, 1, &head());
        frame(&mut octets, DATA, END_STREAM, 1, &[0; PREFIX]);
        Self(octets)
    }
}

impl BareCall {
    /// From connecting to the last octet of the first message, which the calling thread waits for; and the identities in it.
    ///
    /// # Errors
    /// What the agent refuses, and an answer that does not come.
    pub fn make(&self, socket: &Path) -> Result<(Duration, usize), Failure> {
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        let began = Instant::now();
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(&self.0)?;
        let message = loop {
            if let Some(message) = first_message(&answer)? {
                break message;
            }
            let have = answer.len();
            answer.resize(ANSWER_BYTES_MAX, 0);
            let got = stream.read(&mut answer[have..])?;
            answer.truncate(have + got);
            if got == 0 {
                return Err("the answer broke off".into());
            }
        };
        let took = began.elapsed();
        Ok((took, X509svidResponse::decode(&message[..])?.svids.len()))
    }
}

fn frame(octets: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or_default();
    octets.extend_from_slice(&len.to_be_bytes()[1..]);
    octets.extend_from_slice(&[kind, flags]);
    octets.extend_from_slice(&stream.to_be_bytes());
    octets.extend_from_slice(payload);
}

/// The header block (RFC 7541): fields of the static table where it has them, and no Huffman code.
fn head() -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, whole in the table.
    let mut block = vec![0x83, 0x86];
    let mut text = |before: &[u8], text: &str| {
        block.extend_from_slice(before);
        // Below 127 a length is one octet.
        block.push(u8::try_from(text.len()).unwrap_or_default());
        block.extend_from_slice(text.as_bytes());
    };
    text(&[0x04], "/SpiffeWorkloadAPI/FetchX509SVID");
    text(&[0x01], "agent");
    // `content-type` is number 31 there.
    text(&[0x0f, 31 - 15], "application/grpc");
    for (name, value) in [("te", "trailers"), ("workload.spiffe.io", "true")] {
        text(&[0x00], name);
        text(&[], value);
    }
    block
}

/// The first message, once it has come whole; it may be in pieces.
fn first_message(answer: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let (mut left, mut message) = (answer, Vec::new());
    while left.len() >= HEAD {
        let (head, rest) = left.split_at(HEAD);
        let len = head[..3].iter().fold(0, |len, octet| len << 8 | usize::from(*octet));
        let Some(payload) = rest.get(..len) else { break };
        match head[3] {
            HEADERS if head[4] & END_STREAM != 0 => return Err("the agent refused the call".into()),
            DATA => message.extend_from_slice(payload),
            _ => {}
        }
        left = &rest[len..];
    }
    let Some((prefix, message)) = message.split_at_checked(PREFIX) else {
        return Ok(None);
    };
    let len = prefix[1..].iter().fold(0, |len, octet| len << 8 | usize::from(*octet));
    Ok(message.get(..len).map(<[u8]>::to_vec))
}
