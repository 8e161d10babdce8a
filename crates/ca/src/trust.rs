//! How the CA verifies its callers: its own bundle, and revocation straight from its records. There is no filter in
//! between that could be stale.

use std::{fmt, sync::Arc, time::Duration};

use mintage_identity::{IssuerKeyId, Serial, TrustDomain, UnixTime};
use mintage_revocation::{Decision, EntryKey, FreshnessPolicy, Query, RevokedSet, Verdict, Why};
use mintage_state::State;
use mintage_verifier::{
    AllowedIds, RevocationCheck, RevocationView, Trust, TrustError, TrustStore, Usage, VerifiedPeer, VerifyError,
};
use rustls::{crypto::CryptoProvider, pki_types::CertificateDer};

use crate::clock::Clock;

/// Revocation as the state has it.
struct FromRecords(Arc<State>);

impl fmt::Debug for FromRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromRecords")
    }
}

impl RevocationView for FromRecords {
    fn decide(&self, query: &Query<'_>, _: UnixTime, _: FreshnessPolicy) -> Decision {
        match verdict(self.0.view().revoked(), query) {
            Verdict::Good => Decision::Accept { tolerated: false },
            refusal => Decision::Refuse(refusal),
        }
    }

    /// None: connections are looked at again as a whole after each revocation, not by key.
    fn entry_key(&self, _: &IssuerKeyId, _: &Serial) -> Option<EntryKey> {
        None
    }

    /// The records are the truth, at any time.
    fn age(&self, _: UnixTime) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// What the records say about a certificate. The set answers by fingerprint; the records themselves tell a collision from a
/// revocation.
pub(crate) fn verdict(revoked: &RevokedSet, query: &Query<'_>) -> Verdict {
    match revoked.check(query) {
        Verdict::Revoked { why: Why::Serial } if revoked.revoked(&query.issuer, query.serial).is_none() => {
            Verdict::Good
        }
        verdict => verdict,
    }
}

/// The snapshot for `domain` with these roots.
pub(crate) fn trust_of(domain: &TrustDomain, roots: &[Vec<u8>], state: &Arc<State>) -> Result<Trust, TrustError> {
    let view = Arc::new(FromRecords(state.clone()));
    let builder = Trust::builder(domain.clone());
    Ok(builder
        .domain(domain.clone(), roots.iter().cloned(), RevocationCheck::required(view))?
        .build())
}

/// Verifies a finished handshake's chain once more, to know the peer by name.
#[derive(Debug)]
pub(crate) struct PeerTrust {
    pub(crate) store: Arc<TrustStore>,
    pub(crate) allowed: AllowedIds,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl PeerTrust {
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<VerifiedPeer, VerifyError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.store
            .load()
            .verify(chain, Usage::Client, &self.allowed, algorithms, self.clock.now())
    }
}
