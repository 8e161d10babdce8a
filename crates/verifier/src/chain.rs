//! The bare rustls verifiers: server and client certificates against the current snapshot. They hold no state of
//! their own but who is allowed, so they may be put into any rustls configuration.
//!
//! A configuration built by hand must turn resumption off: a resumed session skips every verifier, so an expired or
//! revoked peer would come back. [`crate::client_config`] and [`crate::server_config`] do.

use std::sync::Arc;

use mintage_identity::UnixTime;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{AllowedIds, TrustStore, VerifiedPeer, VerifyError, path::Usage};

/// Verifies servers by SPIFFE ID. The host name is not looked at: the id names the peer, and any address may have it
/// (X509-SVID, section 5; RFC 6125 does not apply).
#[derive(Debug)]
pub struct SvidServerVerifier {
    chain: ChainVerifier,
}

/// Verifies clients by SPIFFE ID.
#[derive(Debug)]
pub struct SvidClientVerifier {
    chain: ChainVerifier,
    mandatory: bool,
}

#[derive(Debug)]
struct ChainVerifier {
    trust: Arc<TrustStore>,
    allowed: AllowedIds,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SvidServerVerifier {
    /// A verifier over `trust` that lets the servers in `allowed` pass.
    pub fn new(trust: Arc<TrustStore>, allowed: AllowedIds, provider: &CryptoProvider) -> Self {
        Self {
            chain: ChainVerifier::new(trust, allowed, provider),
        }
    }
}

impl SvidClientVerifier {
    /// A verifier over `trust` that lets the clients in `allowed` pass and ends a handshake without a certificate.
    pub fn mandatory(trust: Arc<TrustStore>, allowed: AllowedIds, provider: &CryptoProvider) -> Self {
        Self {
            chain: ChainVerifier::new(trust, allowed, provider),
            mandatory: true,
        }
    }

    /// As [`SvidClientVerifier::mandatory`], but a client without any certificate passes too, and stays anonymous. One
    /// that shows a bad certificate is refused, never demoted to anonymous.
    pub fn optional(trust: Arc<TrustStore>, allowed: AllowedIds, provider: &CryptoProvider) -> Self {
        Self {
            mandatory: false,
            ..Self::mandatory(trust, allowed, provider)
        }
    }
}

impl ChainVerifier {
    fn new(trust: Arc<TrustStore>, allowed: AllowedIds, provider: &CryptoProvider) -> Self {
        Self {
            trust,
            allowed,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: rustls_pki_types::UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        let presented = rejoined(end_entity, intermediates);
        let outcome =
            self.trust
                .load()
                .verify_noting_age(&presented, usage, &self.allowed, &self.algorithms, from_rustls(now));
        self.trust.note(&outcome);
        outcome.map(|(peer, _)| peer)
    }
}

/// The chain as it was sent, leaf first; borrows, copies no certificate.
pub(crate) fn rejoined<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect()
}

/// rustls' whole seconds as our instant.
pub fn from_rustls(now: rustls_pki_types::UnixTime) -> UnixTime {
    UnixTime::from_seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

impl ServerCertVerifier for SvidServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain.verify(end_entity, intermediates, Usage::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SvidClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: roots change while this verifier lives, and a client with an identity shall always send it.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: rustls_pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.verify(end_entity, intermediates, Usage::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.chain.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.algorithms.supported_schemes()
    }
}
