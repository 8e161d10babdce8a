//! Clients that name the socket's path as `:authority`, percent-encoded (gRPC C++, Python, Ruby, Swift) or as it is (Java,
//! older Go). RFC 9113, section 8.3.1, allows neither, and the HTTP/2 library ends their calls; on a Unix socket the
//! authority means nothing, and those clients cannot be changed by whoever runs them.
//!
//! So `%` and `/` in a literal authority become `-` while the header block passes by (RFC 7541). All three have six bits in
//! its Huffman code and one octet without it: nothing changes its length, so both ends' dynamic tables stay alike, in size
//! too. Whatever is not understood is left as it is, for the library to judge.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::Meter;

/// Octets of the client's preface (RFC 9113, section 3.4).
pub(super) const PREFACE: usize = 24;
/// Octets of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// The frame that begins a header block.
const HEADERS: u8 = 1;
/// Its flags: padding, and a priority of five octets.
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Longest payload that is looked at: the largest frame the library announces; it refuses longer ones itself.
const BLOCK_MAX: usize = 16 * 1024;
/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: usize = 1;

/// A stream of a caller whose header blocks are mended as they are read.
pub(super) struct Authorities<S> {
    stream: S,
    state: State,
    /// What is being gathered, and then handed on.
    held: Vec<u8>,
    given: usize,
    meter: Meter,
    /// Told once when the caller sends a flood.
    flooded: Box<dyn Fn() + Send + Sync>,
}

enum State {
    /// So many octets go by untouched; `None` for all.
    Pass(Option<usize>),
    /// A frame's head is being gathered.
    Head,
    /// The payload of a HEADERS frame is being gathered, up to this many octets with its head.
    Block(usize),
}

impl<S> Authorities<S> {
    /// Of a caller that speaks HTTP/2; `flooded` is told when it sends a flood of frames.
    pub(super) fn of(stream: S, flooded: impl Fn() + Send + Sync + 'static) -> Self {
        Self::from(stream, Some(PREFACE), Box::new(flooded))
    }

    /// Of a caller that does not: nothing is looked at.
    pub(super) fn of_another_protocol(stream: S) -> Self {
        Self::from(stream, None, Box::new(|| ()))
    }

    fn from(stream: S, pass: Option<usize>, flooded: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            stream,
            state: State::Pass(pass),
            held: Vec::new(),
            given: 0,
            meter: Meter::new(Instant::now()),
            flooded,
        }
    }
}

impl<S: AsyncRead + Unpin> Authorities<S> {
    /// Reads until `held` has `wanted` octets; false at the end of the stream, when it never will.
    fn poll_gather(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<bool>> {
        while self.held.len() < wanted {
            let have = self.held.len();
            self.held.resize(wanted, 0);
            let mut room = ReadBuf::new(&mut self.held[have..]);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut room);
            let got = room.filled().len();
            self.held.truncate(have + got);
            ready!(read)?;
            if got == 0 {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// After the head: what comes next.
    fn after_head(&self) -> State {
        let len = self
            .held
            .iter()
            .take(3)
            .fold(0, |len, octet| len << 8 | usize::from(*octet));
        match self.held.get(3) {
            Some(&HEADERS) if len <= BLOCK_MAX => State::Block(HEAD + len),
            _ => State::Pass(Some(len)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Authorities<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // A head or a mended frame goes out before anything else is read.
            if !matches!(this.state, State::Head | State::Block(_)) && this.given < this.held.len() {
                let left = &this.held[this.given..];
                let count = left.len().min(buf.remaining());
                buf.put_slice(&left[..count]);
                this.given += count;
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Pass(None) => return Pin::new(&mut this.stream).poll_read(cx, buf),
                State::Pass(Some(0)) => {
                    this.held.clear();
                    this.given = 0;
                    this.state = State::Head;
                }
                State::Pass(Some(left)) => {
                    let room = left.min(buf.remaining());
                    let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    let got = part.filled().len();
                    buf.advance(got);
                    this.state = State::Pass(Some(left - got));
                    return Poll::Ready(Ok(()));
                }
                State::Head => match ready!(this.poll_gather(cx, HEAD))? {
                    true if !this.meter.affords(this.held[3], Instant::now()) => {
                        (this.flooded)();
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                    true => this.state = this.after_head(),
                    false => this.state = State::Pass(None),
                },
                State::Block(wanted) => match ready!(this.poll_gather(cx, wanted))? {
                    true => {
                        let (head, payload) = this.held.split_at_mut(HEAD);
                        mend_frame(head[4], payload);
                        this.state = State::Pass(Some(0));
                    }
                    false => this.state = State::Pass(None),
                },
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Authorities<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Mends the part of a header block that one HEADERS frame holds.
fn mend_frame(flags: u8, payload: &mut [u8]) {
    let mut block = payload;
    if flags & PADDED != 0 {
        let Some((padding, rest)) = block.split_first_mut() else {
            return;
        };
        let Some(len) = rest.len().checked_sub(usize::from(*padding)) else {
            return;
        };
        block = &mut rest[..len];
    }
    if flags & PRIORITY != 0 {
        let Some(rest) = block.get_mut(5..) else { return };
        block = rest;
    }
    mend_block(block);
}

/// Goes through the representations of a block (RFC 7541, section 6) as far as they are whole.
fn mend_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let prefix = match first {
            // Indexed, and a change of the table's size: a number alone.
            0x80.. => {
                integer(block, &mut at, 7)?;
                continue;
            }
            0x20..0x40 => {
                integer(block, &mut at, 5)?;
                continue;
            }
            0x40.. => 6,
            _ => 4,
        };
        let name = integer(block, &mut at, prefix)?;
        let mut named = name == AUTHORITY;
        if name == 0 {
            // gRPC's C core spells the name out.
            let (_, spelt) = string(block, &mut at)?;
            named = block.get(spelt)? == b":authority";
        }
        let (huffman, value) = string(block, &mut at)?;
        if named {
            let value = block.get_mut(value)?;
            match huffman {
                true => mend_coded(value),
                false => value
                    .iter_mut()
                    .filter(|octet| matches!(octet, b'%' | b'/'))
                    .for_each(|octet| *octet = b'-'),
            }
        }
    }
    Some(())
}

/// A number with a prefix of so many bits (RFC 7541, section 5.1), of at most four more octets.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & mask;
    *at += 1;
    if value < mask {
        return Some(value);
    }
    for shift in (0..28).step_by(7) {
        let octet = usize::from(*block.get(*at)?);
        *at += 1;
        value += (octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where a string's octets are, and whether they are coded (RFC 7541, section 5.2).
fn string(block: &[u8], at: &mut usize) -> Option<(bool, std::ops::Range<usize>)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let len = integer(block, at, 7)?;
    let end = at.checked_add(len).filter(|end| *end <= block.len())?;
    let range = *at..end;
    *at = end;
    Some((huffman, range))
}

/// Codes of six bits (RFC 7541, appendix B).
const PERCENT: u16 = 0x15;
const SLASH: u16 = 0x18;
const HYPHEN: u16 = 0x16;

/// Goes from symbol to symbol of a coded string. Printable ASCII but for a few has codes of five to eight bits; at the
/// first longer one, or at the padding, it ends.
fn mend_coded(value: &mut [u8]) {
    let bits = value.len() * 8;
    let mut at = 0;
    while at < bits {
        // The next eight bits, ones past the end as in the padding.
        let octet = |index: usize| u16::from(value.get(index).copied().unwrap_or(0xff));
        let pair = octet(at / 8) << 8 | octet(at / 8 + 1);
        let next = pair << (at % 8) >> 8;
        let len = match next {
            0..0x50 => 5,
            0x50..0xb8 => 6,
            0xb8..0xf8 => 7,
            0xf8..0xfe => 8,
            _ => return,
        };
        if at + len > bits {
            return;
        }
        if len == 6 && matches!(next >> 2, PERCENT | SLASH) {
            for bit in 0..len {
                let (index, mask) = ((at + bit) / 8, 0x80 >> ((at + bit) % 8));
                match HYPHEN >> (len - 1 - bit) & 1 {
                    0 => value[index] &= !mask,
                    _ => value[index] |= mask,
                }
            }
        }
        at += len;
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
