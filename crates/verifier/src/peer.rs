//! Who was proven to be at the other end, and everything needed to ask again later without a signature.

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, TrustDomain, UnixTime};

/// One certificate of a verified path, below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathLink {
    /// SHA-256 of the SubjectPublicKeyInfo of the key that signed it.
    pub issuer: IssuerKeyId,
    /// Its serial number.
    pub serial: Serial,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// SHA-256 of its own SubjectPublicKeyInfo.
    pub spki_sha256: SpkiHash,
}

/// A peer whose chain was verified. Only a successful verification makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    domain: TrustDomain,
    /// Leaf first; never empty.
    links: Vec<PathLink>,
}

impl VerifiedPeer {
    pub(crate) fn new(id: SpiffeId, domain: TrustDomain, leaf: PathLink, issuers: Vec<PathLink>) -> Self {
        let mut links = Vec::with_capacity(1 + issuers.len());
        links.push(leaf);
        links.extend(issuers);
        Self { id, domain, links }
    }

    /// The peer's SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The peer's trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The leaf's part of the path.
    pub fn leaf(&self) -> &PathLink {
        &self.links[0]
    }

    /// Every certificate of the path below the root, leaf first.
    pub fn path(&self) -> &[PathLink] {
        &self.links
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        &self.leaf().serial
    }

    /// The key that issued the leaf.
    pub fn issuer(&self) -> &IssuerKeyId {
        &self.leaf().issuer
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> UnixTime {
        self.leaf().not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> UnixTime {
        self.leaf().not_after
    }

    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> &SpkiHash {
        &self.leaf().spki_sha256
    }

    /// The first moment at which some certificate of the path ends: no connection may live longer.
    pub fn valid_until(&self) -> UnixTime {
        self.links.iter().map(|link| link.not_after).min().unwrap_or_default()
    }

    /// The key the whole path hangs from: the root's.
    pub fn root_key(&self) -> &IssuerKeyId {
        &self.links[self.links.len() - 1].issuer
    }
}
