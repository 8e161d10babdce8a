//! Handshakes with a deadline, whose connections are in the registry before their first byte is handed out.

use std::{io, sync::Arc, time::Duration};

use mintage_verifier::{Usage, VerifiedPeer, VerifyError, from_rustls, reason_of};
use rustls::{ClientConfig, CommonState, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{AcceptedPeers, Guard, RegisterError, Registry, Watched, limits::HANDSHAKE_TIMEOUT};

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer did not finish in time.
    #[error("the TLS handshake did not finish within {0:?}")]
    Timeout(Duration),
    /// The handshake failed; a refused certificate is the `rustls::Error` inside.
    #[error("the TLS handshake failed: {}", described(.0))]
    Tls(#[source] io::Error),
    /// The peer was refused after the handshake, by a snapshot that changed meanwhile.
    #[error("the peer is not accepted: {0}")]
    Verify(#[from] VerifyError),
    /// The registry did not take the connection.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// rustls prints the reasons it does not know in debug form.
fn described(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.and_then(reason_of) {
        Some(reason) => reason.to_string(),
        None => error.to_string(),
    }
}

/// Accepts TLS connections of one server configuration.
#[derive(Debug, Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    common: Common,
}

/// Opens TLS connections of one client configuration.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    common: Common,
}

#[derive(Debug, Clone)]
struct Common {
    registry: Registry,
    handshake_timeout: Duration,
    accepted: Option<AcceptedPeers>,
}

impl Acceptor {
    /// An acceptor; `config` comes from [`mintage_verifier::server_config`] over the registry's store.
    pub fn new(config: Arc<ServerConfig>, registry: Registry) -> Self {
        Self {
            config,
            common: Common::new(registry),
        }
    }

    /// With another deadline for the handshake than 5 s.
    #[must_use]
    pub fn with_handshake_timeout(mut self, handshake_timeout: Duration) -> Self {
        self.common.handshake_timeout = handshake_timeout;
        self
    }

    /// Hands on the chain of each peer that is accepted.
    #[must_use]
    pub fn with_accepted_peers(mut self, accepted: AcceptedPeers) -> Self {
        self.common.accepted = Some(accepted);
        self
    }

    /// Does the handshake over `io` and registers the connection. The guard of the stream names the peer; there is none
    /// where the configuration lets anonymous clients in.
    ///
    /// # Errors
    /// When the peer is too slow, is refused, or the registry is full.
    pub async fn accept<IO>(&self, io: IO) -> Result<Watched<server::TlsStream<IO>>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsAcceptor::from(self.config.clone()).accept(io);
        let stream = self.common.within_deadline(handshake).await?;
        let now = self.config.time_provider.current_time().ok_or(RegisterError::NoClock)?;
        let algorithms = self.config.crypto_provider().signature_verification_algorithms;
        let guard = self.common.admit(stream.get_ref().1, Usage::Client, &algorithms, now)?;
        Ok(match guard {
            Some(guard) => Watched::new(stream, guard),
            None => Watched::anonymous(stream),
        })
    }
}

impl Connector {
    /// A connector; `config` comes from [`mintage_verifier::client_config`] over the registry's store.
    pub fn new(config: Arc<ClientConfig>, registry: Registry) -> Self {
        Self {
            config,
            common: Common::new(registry),
        }
    }

    /// With another deadline for the handshake than 5 s.
    #[must_use]
    pub fn with_handshake_timeout(mut self, handshake_timeout: Duration) -> Self {
        self.common.handshake_timeout = handshake_timeout;
        self
    }

    /// Hands on the chain of each peer that is accepted.
    #[must_use]
    pub fn with_accepted_peers(mut self, accepted: AcceptedPeers) -> Self {
        self.common.accepted = Some(accepted);
        self
    }

    /// Does the handshake over `io` and registers the connection. `name` is only sent as the server name indication;
    /// the peer is known by its SPIFFE ID.
    ///
    /// # Errors
    /// When the peer is too slow, is refused, or the registry is full.
    pub async fn connect<IO>(
        &self,
        name: ServerName<'static>,
        io: IO,
    ) -> Result<Watched<client::TlsStream<IO>>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = TlsConnector::from(self.config.clone()).connect(name, io);
        let stream = self.common.within_deadline(handshake).await?;
        let now = self.config.time_provider.current_time().ok_or(RegisterError::NoClock)?;
        let algorithms = self.config.crypto_provider().signature_verification_algorithms;
        let guard = self.common.admit(stream.get_ref().1, Usage::Server, &algorithms, now)?;
        Ok(match guard {
            Some(guard) => Watched::new(stream, guard),
            // Not reached: a TLS server always shows a certificate.
            None => Watched::anonymous(stream),
        })
    }
}

impl Common {
    fn new(registry: Registry) -> Self {
        Self {
            registry,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            accepted: None,
        }
    }

    async fn within_deadline<S>(&self, handshake: impl Future<Output = io::Result<S>>) -> Result<S, HandshakeError> {
        match timeout(self.handshake_timeout, handshake).await {
            Ok(outcome) => outcome.map_err(HandshakeError::Tls),
            Err(_) => Err(HandshakeError::Timeout(self.handshake_timeout)),
        }
    }

    fn admit(
        &self,
        session: &CommonState,
        usage: Usage,
        algorithms: &rustls::crypto::WebPkiSupportedAlgorithms,
        now: rustls::pki_types::UnixTime,
    ) -> Result<Option<Guard>, HandshakeError> {
        let Some(presented) = session.peer_certificates() else {
            return Ok(None);
        };
        let peer: VerifiedPeer =
            self.registry
                .trust()
                .load()
                .peer_of(presented, usage, algorithms, from_rustls(now))?;
        let guard = self.registry.register(peer)?;
        if let Some(accepted) = &self.accepted {
            accepted.hand_on(presented);
        }
        Ok(Some(guard))
    }
}
