//! The TCP side: our own accept loop and TLS handshakes, because a slow or silent caller must cost a bounded amount and a
//! lack of file descriptors must not spin.
//!
//! Callers wait in the kernel's backlog before the last descriptors are gone: those are for the ledger and the people who
//! run the CA. Each handshake runs in its own task under a deadline, and is over when the caller has begun to speak
//! HTTP/2; callers that have not finished one are counted in all and by source. A finished connection carries its
//! [`Peer`] into every request, and is closed when it sends frames without end.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use mintage_attest::rejoin::EXPORTER_LABEL;
use mintage_verifier_tokio::{Registry, Watched};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, info, warn};

use crate::{
    descriptors,
    flood::FrameMeter,
    health::{Health, Trouble},
    limits::{
        ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, ACCEPTED_QUEUE, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX,
        HANDSHAKES_PER_SOURCE_MAX,
    },
    metrics::Metrics,
    peer::{Peer, TlsPeer},
    preface::{self, Prefaced},
    trust::PeerTrust,
};

/// What is told while callers wait.
const NO_ROOM: &str = "no file descriptors are left for new connections; they wait (raise LimitNOFILE)";

/// A finished connection.
pub(crate) struct Accepted {
    stream: Watched<Prefaced<TlsStream<TcpStream>>>,
    frames: FrameMeter,
    metrics: Arc<Metrics>,
    peer: Peer,
    _connection: OwnedSemaphorePermit,
}

/// What one accept loop works with.
pub(crate) struct Acceptor {
    pub(crate) listener: TcpListener,
    pub(crate) tls: TlsAcceptor,
    pub(crate) trust: Arc<PeerTrust>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Health,
    pub(crate) stop: CancellationToken,
}

/// Bounds shared by the handshakes under way.
#[derive(Clone)]
struct Bounds {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Acceptor {
    /// Accepts until told to stop; finished connections come out of the receiver.
    pub(crate) fn start(self) -> mpsc::Receiver<io::Result<Accepted>> {
        let (finished, receiver) = mpsc::channel(ACCEPTED_QUEUE);
        tokio::spawn(self.run(finished));
        receiver
    }

    async fn run(self, finished: mpsc::Sender<io::Result<Accepted>>) {
        let bounds = Bounds {
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            sources: Arc::default(),
        };
        let shared = Arc::new(self);
        let mut pause = ACCEPT_PAUSE_MIN;
        while !shared.stop.is_cancelled() {
            if !shared.has_room() {
                pause = shared.rest(pause).await;
                continue;
            }
            let accepted = tokio::select! {
                accepted = shared.listener.accept() => accepted,
                () = shared.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, remote)) => {
                    pause = ACCEPT_PAUSE_MIN;
                    shared.clone().admit(stream, remote, &bounds, &finished);
                }
                Err(error) => {
                    shared.metrics.refused_connection("accept");
                    warn!(%error, "cannot accept a connection; resting for {pause:?}");
                    pause = shared.rest(pause).await;
                }
            }
        }
    }

    /// Looks whether one more connection fits, and tells when that changes.
    fn has_room(&self) -> bool {
        let room = descriptors::are_left();
        self.metrics.accepting(room);
        if !room && self.health.trouble(Trouble::Connections, NO_ROOM) {
            warn!("{NO_ROOM}");
        }
        if room && self.health.over(Trouble::Connections) {
            info!("connections are taken again");
        }
        room
    }

    /// Rests instead of accepting: the kernel keeps the caller in its backlog, so nothing is lost.
    async fn rest(&self, pause: Duration) -> Duration {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => {}
        }
        (pause * 2).min(ACCEPT_PAUSE_MAX)
    }

    fn admit(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        bounds: &Bounds,
        finished: &mpsc::Sender<io::Result<Accepted>>,
    ) {
        let Some(slot) = Slot::take(bounds, remote.ip()) else {
            // Dropping the stream closes it: an answer would cost more than the caller has shown.
            self.metrics.refused_connection("handshakes");
            return;
        };
        let Ok(connection) = bounds.connections.clone().try_acquire_owned() else {
            self.metrics.refused_connection("connections");
            return;
        };
        let finished = finished.clone();
        tokio::spawn(async move {
            let outcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.handshake(stream, remote)).await;
            drop(slot);
            match outcome {
                Ok(Ok((stream, peer))) => {
                    let peer = Peer::Tls(Arc::new(peer));
                    // The receiver is gone only when the server stops.
                    let _ = finished
                        .send(Ok(Accepted {
                            stream,
                            frames: FrameMeter::new(Instant::now()),
                            metrics: self.metrics.clone(),
                            peer,
                            _connection: connection,
                        }))
                        .await;
                }
                Ok(Err(Failed { reason, error })) => {
                    self.metrics.refused_connection(reason);
                    debug!(%remote, %error, "handshake failed");
                }
                Err(_) => {
                    self.metrics.refused_connection("timeout");
                    debug!(%remote, "handshake and preface not finished in {HANDSHAKE_TIMEOUT:?}");
                }
            }
        });
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<(Watched<Prefaced<TlsStream<TcpStream>>>, TlsPeer), Failed> {
        stream.set_nodelay(true)?;
        let stream = self.tls.accept(stream).await?;
        // Before the peer is verified and registered: nothing that is revoked meanwhile slips through in between.
        let stream = preface::expect(stream).await.map_err(|error| Failed {
            reason: "preface",
            error,
        })?;
        let (_, session) = stream.get_ref().get_ref();
        let exporter = session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(io::Error::other)?;
        let verified = match session.peer_certificates() {
            Some(chain) => Some(self.trust.verify(chain).map_err(io::Error::other)?),
            None => None,
        };
        let watched = match verified.clone() {
            Some(peer) => Watched::new(stream, self.registry.register(peer).map_err(io::Error::other)?),
            None => Watched::anonymous(stream),
        };
        Ok((
            watched,
            TlsPeer {
                remote,
                verified,
                exporter,
            },
        ))
    }
}

/// A handshake that came to nothing, with its word in the metrics.
struct Failed {
    reason: &'static str,
    error: io::Error,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { reason: "tls", error }
    }
}

/// A place among the handshakes under way.
struct Slot {
    source: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _all: OwnedSemaphorePermit,
}

impl Slot {
    fn take(bounds: &Bounds, ip: IpAddr) -> Option<Self> {
        let all = bounds.handshakes.clone().try_acquire_owned().ok()?;
        let source = source_of(ip);
        let mut sources = bounds.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_insert(0);
        if *count >= HANDSHAKES_PER_SOURCE_MAX {
            return None;
        }
        *count += 1;
        drop(sources);
        Some(Self {
            source,
            sources: bounds.sources.clone(),
            _all: all,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, since one host may use all of it.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        },
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if !this.frames.passes(&buf.filled()[before..], Instant::now()) {
            this.metrics.refused_connection("flood");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of frames")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Accepted {
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
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place() {
        let bounds = Bounds {
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(1)),
            sources: Arc::default(),
        };
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let slots: Vec<_> = (0..HANDSHAKES_PER_SOURCE_MAX)
            .map(|_| Slot::take(&bounds, ip).unwrap())
            .collect();
        assert!(Slot::take(&bounds, ip).is_none());
        assert!(Slot::take(&bounds, mapped).is_none());
        assert!(Slot::take(&bounds, "192.0.2.2".parse().unwrap()).is_some());
        drop(slots);
        assert!(Slot::take(&bounds, ip).is_some());
        assert!(bounds.sources.lock().unwrap().is_empty());
    }

    #[test]
    fn an_ipv6_host_is_its_64_bit_network() {
        let at = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
    }
}
