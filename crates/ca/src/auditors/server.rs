//! The auditors' listener: TLS 1.3 with a client certificate and no resumption, HTTP/1.1, and a limit on everything.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mintage_verifier_tokio::{Acceptor, Registry};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{answer::Room, settings::AuditSettings};
use crate::{
    desk::Desk,
    error::CaError,
    limits::{
        AUDIT_CONNECTION_LIFE, AUDIT_CONNECTIONS_MAX, AUDIT_CONNECTIONS_PER_SOURCE_MAX, AUDIT_REQUEST_TIMEOUT,
        HANDSHAKE_TIMEOUT,
    },
    listening::{self, Times},
    places::{Place, Places},
    trust::PeerTrust,
};

/// How long a connection of an auditor lives.
const TIMES: Times = Times {
    life: AUDIT_CONNECTION_LIFE,
    last: AUDIT_REQUEST_TIMEOUT.saturating_add(Duration::from_secs(1)),
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
    let (socket, bound) = listening::bind(address)
        .await
        .map_err(|source| CaError::Listen { address, source })?;
    let desk = listener.desk.clone();
    let room = Room::new(listener.desk, listener.peers, listener.settings.auditors);
    let acceptor = Acceptor::new(listener.tls, listener.registry).with_handshake_timeout(HANDSHAKE_TIMEOUT);
    let door = Arc::new(Door {
        acceptor,
        room: Arc::new(room),
    });
    info!(address = %bound, "auditors are served");
    let places = Places::new(AUDIT_CONNECTIONS_MAX, AUDIT_CONNECTIONS_PER_SOURCE_MAX);
    let served = async move {
        let serve = |stream, remote, place| door.clone().serve(stream, remote, stop.clone(), place);
        listening::accept(socket, places, &desk.metrics, &stop, serve).await;
    };
    Ok((bound, served))
}

/// What a connection goes through.
struct Door {
    acceptor: Acceptor,
    room: Arc<Room>,
}

impl Door {
    /// One connection, until its peer, its certificate, its age or the CA ends it.
    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, stop: CancellationToken, _place: Place) {
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
        let answer = move |request| room.clone().answer(peer.clone(), request);
        if let Err(error) = listening::serve(stream, TIMES, &stop, answer).await {
            debug!(%remote, %error, "an auditor's connection ended");
        }
    }
}
