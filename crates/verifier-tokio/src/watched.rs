//! A stream that ends when its registration says so: pending reads and writes are woken and fail.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::{CloseReason, Guard};

/// Any stream together with its place in the registry. Once the registry ends the connection every read and write
/// fails with `ConnectionAborted` and the [`CloseReason`]; a shutdown is still passed on, once, so that TLS can say
/// goodbye.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    /// `None` for a peer without a certificate, which has nothing to revoke.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    guard: Guard,
    // Two waits, since reader and writer may be two tasks and each must be woken.
    read: Pin<Box<WaitForCancellationFutureOwned>>,
    write: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Watched<S> {
    /// Binds `stream` to its registration.
    pub fn new(stream: S, guard: Guard) -> Self {
        let wait = || Box::pin(guard.token().clone().cancelled_owned());
        let (read, write) = (wait(), wait());
        Self {
            stream,
            watch: Some(Watch { guard, read, write }),
        }
    }

    /// A stream whose peer showed no certificate.
    pub fn anonymous(stream: S) -> Self {
        Self { stream, watch: None }
    }

    /// The registration; `None` for an anonymous peer.
    pub fn guard(&self) -> Option<&Guard> {
        self.watch.as_ref().map(|watch| &watch.guard)
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl Watch {
    fn error(&self) -> io::Error {
        let reason = self.guard.reason().unwrap_or(CloseReason::Ended("cancelled"));
        io::Error::new(io::ErrorKind::ConnectionAborted, reason)
    }

    /// Fails once the connection has to end; otherwise this task is woken when it has to.
    fn check_read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.read.as_mut().poll(cx) {
            Poll::Ready(()) => Err(self.error()),
            Poll::Pending => Ok(()),
        }
    }

    fn check_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.write.as_mut().poll(cx) {
            Poll::Ready(()) => Err(self.error()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(watch) = &mut this.watch {
            watch.check_read(cx)?;
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(watch) = &mut this.watch {
            watch.check_write(cx)?;
        }
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(watch) = &mut this.watch {
            watch.check_write(cx)?;
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(watch) = &mut this.watch {
            watch.check_write(cx)?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        match &mut this.watch {
            // A peer that does not read must not hold a closed connection open by not taking our goodbye.
            Some(watch) if outcome.is_pending() => {
                watch.check_write(cx)?;
                Poll::Pending
            }
            _ => outcome,
        }
    }
}
