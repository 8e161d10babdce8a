//! The listeners of the public files: HTTP/1.1 in clear, or under TLS 1.3 with the CA's own certificate and none asked of the
//! reader, and a limit on everything.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mintage_verifier_tokio::{Acceptor, Registry};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{answer::Room, settings::PublicSettings};
use crate::{
    desk::Desk,
    error::CaError,
    limits::{
        HANDSHAKE_TIMEOUT, PUBLIC_CONNECTION_LIFE, PUBLIC_CONNECTIONS_MAX, PUBLIC_CONNECTIONS_PER_SOURCE_MAX,
        PUBLIC_REQUEST_TIMEOUT,
    },
    listening::{self, Times},
    places::{Place, Places},
};

/// How long a connection lives.
const TIMES: Times = Times {
    life: PUBLIC_CONNECTION_LIFE,
    last: PUBLIC_REQUEST_TIMEOUT.saturating_add(Duration::from_secs(1)),
};

/// Listeners that are about to serve.
pub(crate) struct Listener {
    pub(crate) settings: PublicSettings,
    pub(crate) desk: Arc<Desk>,
    /// The CA's own certificate; one of the reader is verified if he shows it, and means nothing here.
    pub(crate) tls: Arc<ServerConfig>,
    /// Ends connections of certificates that were revoked.
    pub(crate) registry: Registry,
}

/// Where the files are served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faces {
    pub(crate) https: Option<SocketAddr>,
    pub(crate) http: Option<SocketAddr>,
}

/// What a connection goes through.
struct Door {
    room: Arc<Room>,
    /// None in clear.
    acceptor: Option<Acceptor>,
}

/// Binds what is configured; the futures serve until told to stop, and then until the last connection has ended.
///
/// # Errors
/// An address cannot be listened on.
pub(crate) async fn start(
    listener: Listener,
    stop: CancellationToken,
) -> Result<(Faces, Vec<impl Future<Output = ()> + Send + 'static>), CaError> {
    let Listener {
        settings,
        desk,
        tls,
        registry,
    } = listener;
    let room = Arc::new(Room::new(desk));
    // Both share one set of places: it is one source that reads too much.
    let places = Places::new(PUBLIC_CONNECTIONS_MAX, PUBLIC_CONNECTIONS_PER_SOURCE_MAX);
    let acceptor = Acceptor::new(tls, registry).with_handshake_timeout(HANDSHAKE_TIMEOUT);
    let (mut faces, mut served) = (Faces::default(), Vec::new());
    for (address, acceptor) in [(settings.https, Some(acceptor)), (settings.http, None)] {
        let Some(address) = address else { continue };
        let bound = listening::bind(address).await;
        let (socket, bound) = bound.map_err(|source| CaError::Listen { address, source })?;
        info!(address = %bound, tls = acceptor.is_some(), "public files are served");
        match acceptor.is_some() {
            true => faces.https = Some(bound),
            false => faces.http = Some(bound),
        }
        let door = Door {
            room: room.clone(),
            acceptor,
        };
        served.push(accept(socket, Arc::new(door), places.clone(), stop.clone()));
    }
    Ok((faces, served))
}

async fn accept(socket: TcpListener, door: Arc<Door>, places: Places, stop: CancellationToken) {
    let serve = |stream, remote, place| door.clone().serve(stream, remote, stop.clone(), place);
    listening::accept(socket, places, &door.room.desk.metrics, &stop, serve).await;
}

impl Door {
    async fn serve(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, stop: CancellationToken, _place: Place) {
        let room = self.room.clone();
        let answer = move |request| room.clone().answer(request);
        let ended = match &self.acceptor {
            None => listening::serve(stream, TIMES, &stop, answer).await,
            Some(acceptor) => {
                let accepted = tokio::select! {
                    accepted = acceptor.accept(stream) => accepted,
                    () = stop.cancelled() => return,
                };
                match accepted {
                    Ok(stream) => listening::serve(stream, TIMES, &stop, answer).await,
                    Err(error) => {
                        self.room.desk.metrics.refused_connection("public_tls");
                        debug!(%remote, %error, "the handshake of a reader of public files failed");
                        return;
                    }
                }
            }
        };
        if let Err(error) = ended {
            debug!(%remote, %error, "the connection of a reader of public files ended");
        }
    }
}
