//! The first call of a node that trusts nothing yet but the root hashes in its join token.
//!
//! The CA sends its root in the chain. The verifier takes the presented certificate whose SHA-256 is pinned, makes it
//! the only anchor, and accepts exactly a CA replica of the token's trust domain. Revocation cannot be asked for
//! here: the filter arrives over this very connection; whoever holds a revoked replica's key could answer a joining
//! node until that certificate expires.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mintage_identity::{CertHash, Reserved, TrustDomain};
use ring::digest::{SHA256, digest};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{
    RevocationCheck, TrustError, VerifiedPeer, VerifyError,
    chain::{from_rustls, rejoined},
    limits::PINNED_ROOTS_MAX,
    path::{self, Usage},
    trust::Domain,
};

/// Accepts a CA replica of one trust domain under one of a few pinned roots, and keeps the root it found.
#[derive(Debug)]
pub struct JoinVerifier {
    domain: TrustDomain,
    pins: Vec<CertHash>,
    algorithms: WebPkiSupportedAlgorithms,
    learned: ArcSwapOption<CertificateDer<'static>>,
    refusal: ArcSwapOption<VerifyError>,
}

impl JoinVerifier {
    /// A verifier for trust domain `domain` that takes a root whose SHA-256 (of the whole DER) is in `pins`.
    ///
    /// # Errors
    /// Refuses no pins, and more than [`PINNED_ROOTS_MAX`].
    pub fn new(
        domain: TrustDomain,
        pins: impl IntoIterator<Item = CertHash>,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, TrustError> {
        let pins: Vec<_> = pins.into_iter().take(PINNED_ROOTS_MAX + 1).collect();
        if pins.is_empty() || pins.len() > PINNED_ROOTS_MAX {
            return Err(TrustError::PinCount(pins.len()));
        }
        Ok(Arc::new(Self {
            domain,
            pins,
            algorithms: provider.signature_verification_algorithms,
            learned: ArcSwapOption::const_empty(),
            refusal: ArcSwapOption::const_empty(),
        }))
    }

    /// The pinned root of the last chain that was accepted, or `None` before the first. Pinned means proven: its hash
    /// came with the token, so it holds even if the handshake ended later.
    pub fn learned_root(&self) -> Option<CertificateDer<'static>> {
        self.learned.load().as_deref().cloned()
    }

    /// Why the last handshake's chain was refused, in full; `None` when it was accepted or there was none. rustls' own
    /// error says less, and a person who holds the wrong token must be told so.
    pub fn last_refusal(&self) -> Option<Arc<VerifyError>> {
        self.refusal.load_full()
    }

    /// Verifies a chain (DER, leaf first, the root among it) as the handshake does.
    ///
    /// # Errors
    /// Refuses a chain without a pinned root, another trust domain's leaf, and one that is no CA replica's.
    pub fn verify(
        &self,
        presented: &[CertificateDer<'_>],
        now: mintage_identity::UnixTime,
    ) -> Result<VerifiedPeer, VerifyError> {
        let leaf = path::parse_leaf(presented)?;
        if !leaf.id().is_member_of(&self.domain) {
            return Err(VerifyError::UnknownTrustDomain(leaf.id().trust_domain()));
        }
        if !matches!(leaf.id().reserved(), Some(Reserved::Ca(_))) {
            return Err(VerifyError::NotAllowed(leaf.id().clone()));
        }
        let root = presented[1..]
            .iter()
            .find(|der| self.is_pinned(der))
            .ok_or(VerifyError::RootNotPinned)?;
        let domain = Domain::new(self.domain.clone(), [root.to_vec()], RevocationCheck::None)
            .map_err(|_| VerifyError::RootNotPinned)?;
        let peer = path::verify(&domain, &leaf, presented, Usage::Server, &self.algorithms, now)?;
        self.learned.store(Some(Arc::new(root.clone().into_owned())));
        Ok(peer)
    }

    fn is_pinned(&self, der: &CertificateDer<'_>) -> bool {
        let hash = digest(&SHA256, der);
        // Both sides are public: no need for a comparison in constant time.
        self.pins.iter().any(|pin| pin.as_bytes() == hash.as_ref())
    }
}

impl ServerCertVerifier for JoinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let outcome = self.verify(&rejoined(end_entity, intermediates), from_rustls(now));
        self.refusal.store(outcome.as_ref().err().cloned().map(Arc::new));
        outcome?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
