//! The auditors' listener: TLS 1.3 with a client certificate and no resumption, HTTP/1.1, and a limit on everything.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use mintage_verifier_tokio::{Acceptor, Registry};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use super::{answer::Room, settings::AuditSettings, stall::Moving};
use crate::{
    descriptors,
    desk::Desk,
    error::CaError,
    limits::{
        ACCEPT_PAUSE_MAX, ACCEPT_PAUSE_MIN, AUDIT_CONNECTION_LIFE, AUDIT_CONNECTIONS_MAX,
        AUDIT_CONNECTIONS_PER_SOURCE_MAX, AUDIT_HEAD_BYTES_MAX, AUDIT_HEAD_TIMEOUT, AUDIT_HEADERS_MAX,
        AUDIT_REQUEST_TIMEOUT, AUDIT_STALL_MAX, HANDSHAKE_TIMEOUT,
    },
    places::{Place, Places},
    trust::PeerTrust,
};

/// A listener that is about to serve.
pub(crate) struct Listener {
    pub(crate) settings: AuditSettings,
    pub(crate) desk: Arc<Desk>,
    /// The CA's own certificate, and what verifies callers; one is demanded.
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) peers: Arc<PeerTrust>,
    /// Ends connections on revocation and expiry.
    pub(crate) registry: Registry,
}

/// Binds the address; the future serves until told to stop, and then until the last connection has ended.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn start(
    listener: Listener,
    stop: CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), CaError> {
    let address = listener.settings.listen;
    let listen = |source| CaError::Listen { address, source };
    let socket = TcpListener::bind(address).await.map_err(listen)?;
    let bound = socket.local_addr().map_err(listen)?;
    let room = Room::new(listener.desk, listener.peers, listener.settings.auditors);
    let acceptor = Acceptor::new(listener.tls, listener.registry).with_handshake_timeout(HANDSHAKE_TIMEOUT);
    let door = Arc::new(Door {
        acceptor,
        room: Arc::new(room),
    });
    info!(address = %bound, "auditors are served");
    Ok((bound, accept(socket, door, stop)))
}

/// What a connection goes through.
struct Door {
    acceptor: Acceptor,
    room: Arc<Room>,
}

/// Accepts until told to stop, then waits for the connections, each of which has its deadline.
async fn accept(socket: TcpListener, door: Arc<Door>, stop: CancellationToken) {
    let places = Places::new(AUDIT_CONNECTIONS_MAX, AUDIT_CONNECTIONS_PER_SOURCE_MAX);
    let connections = TaskTracker::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = match descriptors::are_left() {
            true => tokio::select! {
                accepted = socket.accept() => accepted.map_err(|problem| problem.to_string()),
                () = stop.cancelled() => break,
            },
            false => Err("no file descriptors are left for new connections".to_owned()),
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE_MIN;
                let Ok(place) = places.take(remote.ip()) else {
                    door.room.desk.metrics.refused_connection("connections");
                    continue;
                };
                connections.spawn(door.clone().serve(stream, remote, stop.clone(), place));
            }
            Err(problem) => {
                warn!(problem, "cannot accept an auditor's connection; resting for {pause:?}");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => break,
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    drop(socket);
    connections.close();
    connections.wait().await;
}

impl Door {
    /// One connection: requests one after another, until its peer, its certificate, its age or the CA ends it.
    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, stop: CancellationToken, _place: Place) {
        // Without it an answer may wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let accepted = tokio::select! {
            accepted = self.acceptor.accept(stream) => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                self.room.desk.metrics.refused_connection("audit_tls");
                debug!(%remote, %error, "an auditor's handshake failed");
                return;
            }
        };
        // The configuration demands a certificate; without one there is nobody to answer.
        let Some(peer) = stream.guard().map(|guard| guard.peer().clone()) else {
            return;
        };
        let room = self.room.clone();
        let service = hyper::service::service_fn(move |request| room.clone().answer(peer.clone(), request));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(AUDIT_HEAD_TIMEOUT)
            .max_buf_size(AUDIT_HEAD_BYTES_MAX)
            .max_headers(AUDIT_HEADERS_MAX)
            // An answer is sent from where it lies, not out of a second copy.
            .writev(true);
        let connection = http.serve_connection(TokioIo::new(Moving::new(stream, AUDIT_STALL_MAX)), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = tokio::time::sleep(AUDIT_CONNECTION_LIFE) => None,
            () = stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // The request under way is answered; a peer that does not read is left then.
                connection.as_mut().graceful_shutdown();
                let last = AUDIT_REQUEST_TIMEOUT + Duration::from_secs(1);
                tokio::time::timeout(last, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            debug!(%remote, %error, "an auditor's connection ended");
        }
    }
}
