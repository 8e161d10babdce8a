//! A service that verifies: it follows one CA's revoked set and bundle, keeps what it has when the CA offers less, and
//! answers whether a chain is accepted.

use std::{path::Path, sync::Arc};

use mintage_identity::UnixTime;
use mintage_proto::v1::{
    BundleRequest, SnapshotRequest, TrustBundle, revocation_client::RevocationClient,
    trust_domain_client::TrustDomainClient,
};
use mintage_revocation::{Delegation, Replica, RevocationError};
use mintage_svid::CertInfo;
use mintage_verifier::{AllowedIds, RevocationCheck, Trust, Usage, VerifyError};
use rustls::pki_types::CertificateDer;

use super::{
    ca::domain,
    client::{admin, provider},
};

/// The machine's clock.
pub fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since.expect("the clock is after 1970").as_millis();
    UnixTime::from_millis(i64::try_from(millis).expect("the clock is before the year 10000"))
}

/// Bundle and revoked set of one trust domain, as a verifier holds them.
#[derive(Debug)]
pub struct Follower {
    replica: Replica,
    bundle: Option<TrustBundle>,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            replica: Replica::new(&domain()),
            bundle: None,
        }
    }
}

impl Follower {
    /// One that trusts the bundle of the CA behind this socket, and holds no set yet.
    ///
    /// # Panics
    ///
    /// When the CA does not answer.
    pub async fn trusting(socket: &Path) -> Self {
        let mut follower = Self::default();
        let channel = admin(socket).await.expect("the admin socket answers");
        let bundle = TrustDomainClient::new(channel).bundle(BundleRequest::default()).await;
        let bundle = bundle.expect("a bundle").into_inner().bundle.expect("a bundle");
        follower.trust(&bundle);
        follower.bundle = Some(bundle);
        follower
    }

    /// What it holds, to be given news.
    pub fn replica(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// Takes what the CA behind this socket offers; its sequence.
    ///
    /// # Errors
    ///
    /// Why the set is not taken up; the held one stays.
    ///
    /// # Panics
    ///
    /// When the CA does not answer.
    pub async fn follow(&mut self, socket: &Path) -> Result<u64, RevocationError> {
        let channel = admin(socket).await.expect("the admin socket answers");
        let mut client = TrustDomainClient::new(channel.clone());
        let bundle = client.bundle(BundleRequest::default()).await.expect("a bundle");
        let bundle = bundle.into_inner().bundle.expect("a bundle");
        let request = SnapshotRequest::default();
        let mut stream = RevocationClient::new(channel)
            .snapshot(request)
            .await
            .expect("a snapshot")
            .into_inner();
        let mut snapshot = Vec::new();
        while let Some(chunk) = stream.message().await.expect("the stream goes on") {
            snapshot.extend(chunk.data);
        }
        let held = self.bundle.as_ref().map_or(0, |held| held.sequence);
        if bundle.sequence >= held {
            self.trust(&bundle);
            self.bundle = Some(bundle);
        }
        Ok(self.replica.apply_snapshot(&snapshot, now())?.sequence)
    }

    fn trust(&mut self, bundle: &TrustBundle) {
        for delegation in &bundle.revocation_delegations {
            let delegation = Delegation::decode(delegation).expect("a delegation");
            let signer = bundle.roots.iter().find_map(|der| {
                let root = CertInfo::parse_signing(der).expect("a root");
                (root.key_id() == delegation.statement().ca_key()).then(|| root.spki_der().to_vec())
            });
            let verified = delegation.verify(&domain(), &signer.expect("made by a root"), now());
            // An older epoch is refused, and what is held stays.
            let _ = self.replica.trust(verified.expect("a good delegation"));
        }
    }

    /// Where it stands: epoch and sequence.
    pub fn stands_at(&self) -> (u64, u64) {
        self.replica
            .position()
            .map_or((0, 0), |held| (held.epoch, held.sequence))
    }

    /// Whether a chain (DER, leaf first) is accepted now.
    ///
    /// # Errors
    ///
    /// Why not.
    ///
    /// # Panics
    ///
    /// Before it followed a CA.
    pub fn accepts(&self, chain: &[Vec<u8>]) -> Result<(), VerifyError> {
        let bundle = self.bundle.as_ref().expect("it has followed a CA");
        let view: Arc<_> = self.replica.handle();
        let trust = Trust::builder(domain())
            .domain(domain(), bundle.roots.clone(), RevocationCheck::required(view))
            .expect("roots")
            .build();
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
        let algorithms = &provider().signature_verification_algorithms;
        let verified = trust.verify(&chain, Usage::Both, &AllowedIds::OwnTrustDomain, algorithms, now());
        verified.map(drop)
    }
}
