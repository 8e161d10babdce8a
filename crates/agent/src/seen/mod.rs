//! Certificates that were seen in use on this node: what local programs report is verified here, and a sample of it is
//! told to the CA, whose ledger holds every certificate it ever issued. One that is not in there was made with a stolen
//! key. Nothing but a certificate of this very trust domain gets this far, so that nobody on the node can raise an alarm
//! with rubbish.

use mintage_identity::UnixTime;
use mintage_proto::v1;
use mintage_svid::cert_sha256;
use mintage_verifier::{AllowedIds, Trust, Usage, VerifiedPeer, VerifyError};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;

mod pool;

pub(crate) use pool::{Offered, Pool};

/// SHA-256 of a certificate.
pub(crate) type Fingerprint = [u8; 32];

/// One certificate that was seen in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenUse {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) peer: VerifiedPeer,
    pub(crate) at: UnixTime,
}

/// The hash by which a chain's leaf is known.
pub(crate) fn fingerprint(leaf: &[u8]) -> Fingerprint {
    *cert_sha256(leaf).as_bytes()
}

impl SeenUse {
    /// Verifies a chain (DER, leaf first) as a peer of the sender would, but for revocation: a revoked certificate that the
    /// ledger does not hold is as much of an alarm.
    ///
    /// # Errors
    /// Why a verifier of this trust domain refuses it; an expired certificate is one of the reasons.
    pub(crate) fn verify(
        chain: &[Vec<u8>],
        trust: &Trust,
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<Self, VerifyError> {
        let presented: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
        let algorithms = &provider.signature_verification_algorithms;
        let peer = trust.verify(&presented, Usage::Both, &AllowedIds::OwnTrustDomain, algorithms, now)?;
        Ok(Self {
            fingerprint: fingerprint(&chain[0]),
            peer,
            at: now,
        })
    }

    pub(crate) fn to_wire(&self) -> v1::SeenUse {
        v1::SeenUse {
            issuer_key_id: self.peer.issuer().as_bytes().to_vec(),
            serial: self.peer.serial().octets().to_vec(),
            certificate_sha256: self.fingerprint.to_vec(),
            spiffe_id: self.peer.id().to_string(),
            not_before_s: self.peer.not_before().seconds(),
            not_after_s: self.peer.not_after().seconds(),
            seen_at_ms: self.at.millis(),
        }
    }
}
