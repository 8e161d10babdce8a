//! Ready rustls configurations. Resumption is off on both sides, in every form rustls has it: a resumed session runs
//! no verifier, so a peer whose certificate has expired or was revoked would be let in again.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::CryptoProvider,
    server::NoServerSessionStorage,
    time_provider::TimeProvider,
    version::{TLS12, TLS13},
};

use crate::{AllowedIds, IdentitySource, JoinVerifier, SvidClientVerifier, SvidServerVerifier, TrustStore};

static ONLY_13: &[&SupportedProtocolVersion] = &[&TLS13];
static FROM_12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Which protocol versions are offered and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TlsVersions {
    /// TLS 1.3 alone.
    #[default]
    Only13,
    /// TLS 1.2 as well, for peers that cannot do better. Their certificates then travel in clear.
    From12,
}

/// What every configuration needs besides trust and identity. The crypto provider and the clock are passed in; none
/// is taken from the process.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    versions: TlsVersions,
    alpn: Vec<Vec<u8>>,
}

/// Who may connect to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client must prove one of these ids.
    Mandatory(AllowedIds),
    /// A client may come without a certificate and is anonymous then; one that shows a certificate must prove one of
    /// these ids.
    Optional(AllowedIds),
}

impl TlsSettings {
    /// TLS 1.3 alone, no ALPN.
    pub fn new(provider: Arc<CryptoProvider>, time: Arc<dyn TimeProvider>) -> Self {
        Self {
            provider,
            time,
            versions: TlsVersions::default(),
            alpn: Vec::new(),
        }
    }

    /// With these application protocols in order of preference, such as `h2`.
    #[must_use]
    pub fn with_alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.alpn = protocols.into_iter().map(<[u8]>::to_vec).collect();
        self
    }

    /// With these protocol versions.
    #[must_use]
    pub fn with_versions(mut self, versions: TlsVersions) -> Self {
        self.versions = versions;
        self
    }

    /// The crypto provider.
    pub fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// The clock.
    pub fn time(&self) -> &Arc<dyn TimeProvider> {
        &self.time
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        match self.versions {
            TlsVersions::Only13 => ONLY_13,
            TlsVersions::From12 => FROM_12,
        }
    }
}

/// A client that shows `identity` (nothing while it is empty or `None`) and accepts servers in `allowed`.
///
/// # Errors
/// When the provider has no cipher suite for the asked versions.
pub fn client_config(
    trust: Arc<TrustStore>,
    identity: Option<Arc<IdentitySource>>,
    allowed: AllowedIds,
    tls: &TlsSettings,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = Arc::new(SvidServerVerifier::new(trust, allowed, &tls.provider));
    let builder = ClientConfig::builder_with_details(tls.provider.clone(), tls.time.clone())
        .with_protocol_versions(tls.versions())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    Ok(sealed_client(config, tls))
}

/// A client without identity for the one call by which a node joins; see [`JoinVerifier`].
///
/// # Errors
/// As [`client_config`].
pub fn join_config(verifier: Arc<JoinVerifier>, tls: &TlsSettings) -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_details(tls.provider.clone(), tls.time.clone())
        .with_protocol_versions(tls.versions())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(sealed_client(config, tls))
}

/// A server that shows `identity` and accepts clients as `clients` says.
///
/// # Errors
/// When the provider has no cipher suite for the asked versions.
pub fn server_config(
    trust: Arc<TrustStore>,
    identity: Arc<IdentitySource>,
    clients: ClientAuth,
    tls: &TlsSettings,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = match clients {
        ClientAuth::Mandatory(allowed) => SvidClientVerifier::mandatory(trust, allowed, &tls.provider),
        ClientAuth::Optional(allowed) => SvidClientVerifier::optional(trust, allowed, &tls.provider),
    };
    let mut config = ServerConfig::builder_with_details(tls.provider.clone(), tls.time.clone())
        .with_protocol_versions(tls.versions())?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity);
    config.alpn_protocols.clone_from(&tls.alpn);
    // No session is stored (session ids and TLS 1.3 stateful tickets), none is handed out, not even on request (RFC
    // 9149); the default ticketer makes no stateless tickets and is left as it is.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // RFC 7627: without it a TLS 1.2 session does not bind the certificates it was made with.
    config.require_ems = true;
    // Certificates could be sent compressed (RFC 8879); our size limits count what was sent.
    config.cert_decompressors.clear();
    Ok(Arc::new(config))
}

fn sealed_client(mut config: ClientConfig, tls: &TlsSettings) -> Arc<ClientConfig> {
    config.alpn_protocols.clone_from(&tls.alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.require_ems = true;
    config.cert_decompressors.clear();
    Arc::new(config)
}
