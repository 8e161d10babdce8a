//! Which protocol a caller of the socket speaks. HTTP/2 begins with a fixed text (RFC 9113, section 3.4) whose first three
//! octets begin no other request, so they decide; what was read is given back.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first octets of HTTP/2; methods of HTTP/1.1 that begin with P are POST, PUT, PATCH and PROPFIND.
const HTTP_2: &[u8; 4] = b"PRI ";

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// gRPC.
    Http2,
    /// Plain HTTP.
    Http1,
}

/// A stream whose first octets were looked at; readers get them once more.
pub(super) struct Heard<S> {
    stream: S,
    octets: [u8; HTTP_2.len()],
    have: usize,
    given: usize,
}

/// Reads as far as it takes to tell. The caller sets the deadline.
///
/// # Errors
/// `UnexpectedEof` when the other end leaves before, else what the stream answers.
pub(super) async fn hear<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(Spoken, Heard<S>)> {
    let mut octets = [0; HTTP_2.len()];
    let mut have = 0;
    let spoken = loop {
        let count = stream.read(&mut octets[have..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += count;
        if !HTTP_2.starts_with(&octets[..have]) {
            break Spoken::Http1;
        }
        if have == HTTP_2.len() {
            break Spoken::Http2;
        }
    };
    let heard = Heard {
        stream,
        octets,
        have,
        given: 0,
    };
    Ok((spoken, heard))
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.octets[self.given..self.have];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn heard(said: &'static [u8], piece: usize) -> (io::Result<Spoken>, Vec<u8>) {
        let (mut caller, stream) = tokio::io::duplex(piece);
        let sent = tokio::spawn(async move { caller.write_all(said).await });
        match hear(stream).await {
            Err(error) => (Err(error), Vec::new()),
            Ok((spoken, mut stream)) => {
                let mut octets = Vec::new();
                stream.read_to_end(&mut octets).await.unwrap();
                sent.await.unwrap().unwrap();
                (Ok(spoken), octets)
            }
        }
    }

    #[tokio::test]
    async fn the_first_octets_tell_and_none_is_lost_whatever_the_pieces() {
        for piece in [1, 2, 3, 64] {
            for (said, wanted) in [
                (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Spoken::Http2),
                (b"GET / HTTP/1.1\r\n", Spoken::Http1),
                (b"POST / HTTP/1.1\r\n", Spoken::Http1),
                (b"PROPFIND / HTTP/1.1\r\n", Spoken::Http1),
                (b"PRIx", Spoken::Http1),
                (b"\0", Spoken::Http1),
            ] {
                let (spoken, octets) = heard(said, piece).await;
                assert_eq!((spoken.unwrap(), octets.as_slice()), (wanted, said));
            }
        }
        assert!(heard(b"PR", 64).await.0.is_err(), "it left before it said which");
        assert!(heard(b"", 64).await.0.is_err());
    }
}
