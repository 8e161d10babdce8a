//! The first octets of a caller. HTTP/2 begins with a fixed text (RFC 9113, section 3.4), and the server behind waits for
//! it without a limit: it is therefore awaited here, under the handshake's deadline, before the connection takes a place
//! among the finished ones.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The client's connection preface.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose caller has sent the preface; readers get it once more, in front of what follows.
pub(crate) struct Prefaced<S> {
    stream: S,
    /// Octets of the preface that were given back.
    given: usize,
}

/// Waits for the preface and reads nothing beyond it. The caller sets the deadline.
///
/// # Errors
/// `InvalidData` at the first octet that differs, `UnexpectedEof` when the caller leaves, else what the stream answers.
pub(crate) async fn expect<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Prefaced<S>> {
    let mut octets = [0; PREFACE.len()];
    let mut have = 0;
    while have < octets.len() {
        let count = stream.read(&mut octets[have..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += count;
        if !PREFACE.starts_with(&octets[..have]) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the caller speaks no HTTP/2",
            ));
        }
    }
    Ok(Prefaced { stream, given: 0 })
}

impl<S> Prefaced<S> {
    /// The stream inside.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &PREFACE[self.given..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
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

    #[tokio::test]
    async fn what_was_read_is_given_back_whatever_the_pieces() {
        let (mut caller, stream) = tokio::io::duplex(1);
        let sent = tokio::spawn(async move {
            caller.write_all(PREFACE).await.unwrap();
            caller.write_all(b"and more").await.unwrap();
        });
        let mut stream = expect(stream).await.unwrap();
        let mut octets = Vec::new();
        let mut piece = [0; 5];
        loop {
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                count => octets.extend_from_slice(&piece[..count]),
            }
        }
        sent.await.unwrap();
        assert_eq!(octets, [PREFACE.as_slice(), b"and more"].concat());
    }

    #[tokio::test]
    async fn anything_else_is_refused_at_its_first_octet() {
        let kind = async |octets: &[u8], then_leave: bool| {
            let (mut caller, stream) = tokio::io::duplex(64);
            caller.write_all(octets).await.unwrap();
            // Held open, or gone: the outcome must not wait for either.
            let _held = (!then_leave).then_some(caller);
            expect(stream).await.err().map(|error| error.kind())
        };
        assert_eq!(kind(b"PRI * HTTP/1", false).await, Some(io::ErrorKind::InvalidData));
        assert_eq!(kind(b"G", false).await, Some(io::ErrorKind::InvalidData));
        assert_eq!(kind(&PREFACE[..23], true).await, Some(io::ErrorKind::UnexpectedEof));
    }
}
