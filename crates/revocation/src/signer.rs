//! The revocation key: an online Ed25519 key that a CA key delegates, so that news is signed without the CA key.

use std::fmt;

use mintage_identity::UnixTime;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use zeroize::Zeroizing;

use crate::{
    Exception, RevocationError, RevokedSet,
    body::Body,
    bucket::horizon_at,
    header::{Header, Kind, SetHash, sha256},
    limits::BODY_BYTES_MAX,
};

/// Names a revocation key: SHA-256 of its 32-octet Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevocationKeyId(pub(crate) [u8; 32]);

impl RevocationKeyId {
    pub(crate) fn of(public_key: &[u8; 32]) -> Self {
        Self(sha256(&[public_key]))
    }

    /// The octets.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RevocationKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for RevocationKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationKeyId({self})")
    }
}

/// Epoch and dates of one signed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Epoch of the key's delegation.
    pub epoch: u64,
    /// Now, at the publisher.
    pub this_update: UnixTime,
    /// When the object may no longer be taken up.
    pub next_update: UnixTime,
}

/// A revocation key.
pub struct RevocationKey {
    pair: Ed25519KeyPair,
    public_key: [u8; 32],
    id: RevocationKeyId,
}

impl RevocationKey {
    /// A new key and its PKCS#8 form (RFC 5958), which the caller stores encrypted.
    ///
    /// # Errors
    /// Fails when the system gives no randomness.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), RevocationError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| RevocationError::BadKey {
            what: "the revocation key",
            problem: "the system gave no randomness".into(),
        })?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Reads a PKCS#8 v1 or v2 Ed25519 key; in v2 the public key must fit.
    ///
    /// # Errors
    /// Refuses anything else.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, RevocationError> {
        let bad = |problem: String| RevocationError::BadKey {
            what: "the revocation key",
            problem,
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|error| bad(error.to_string()))?;
        let public = pair.public_key().as_ref();
        let public_key = <[u8; 32]>::try_from(public).map_err(|_| bad("its public key is not 32 octets".into()))?;
        let id = RevocationKeyId::of(&public_key);
        Ok(Self { pair, public_key, id })
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The key's id in headers.
    pub fn id(&self) -> RevocationKeyId {
        self.id
    }

    /// Signs the whole set.
    ///
    /// # Errors
    /// Fails when a limit of the format is reached.
    pub fn sign_snapshot(
        &self,
        set: &RevokedSet,
        exceptions: &[Exception],
        terms: &Terms,
    ) -> Result<Vec<u8>, RevocationError> {
        let body = set.snapshot_body(exceptions, horizon_at(terms.this_update));
        let header = self.header(Kind::Snapshot, set, terms, set.sequence(), set.hash());
        self.seal(header, Some(&body))
    }

    /// Signs what the records after `from`, up to and including `to`, add; `exceptions` is the whole list at `to`.
    ///
    /// # Errors
    /// Fails when the set does not remember both sequences: serve the snapshot instead.
    pub fn sign_delta(
        &self,
        set: &RevokedSet,
        from: u64,
        to: u64,
        exceptions: &[Exception],
        terms: &Terms,
    ) -> Result<Vec<u8>, RevocationError> {
        let no_delta = || RevocationError::NoDelta { from, to };
        let (previous, set_hash) = (
            set.hash_at(from).ok_or_else(no_delta)?,
            set.hash_at(to).ok_or_else(no_delta)?,
        );
        let body = set.delta_body(from, to, exceptions, horizon_at(terms.this_update))?;
        let mut header = self.header(Kind::Delta, set, terms, to, set_hash);
        (header.base_sequence, header.previous) = (from, previous);
        self.seal(header, Some(&body))
    }

    /// Signs that nothing after the set's sequence is known at `terms.this_update`.
    ///
    /// # Errors
    /// None in practice; the type is that of its siblings.
    pub fn sign_heartbeat(&self, set: &RevokedSet, terms: &Terms) -> Result<Vec<u8>, RevocationError> {
        let header = self.header(Kind::Heartbeat, set, terms, set.sequence(), set.hash());
        self.seal(header, None)
    }

    fn header(&self, kind: Kind, set: &RevokedSet, terms: &Terms, sequence: u64, set_hash: SetHash) -> Header {
        Header {
            kind,
            trust_domain: set.trust_domain_hash(),
            epoch: terms.epoch,
            sequence,
            base_sequence: 0,
            previous: SetHash([0; 32]),
            set_hash,
            this_update: terms.this_update,
            next_update: terms.next_update,
            horizon: horizon_at(terms.this_update),
            key_id: self.id.0,
        }
    }

    fn seal(&self, header: Header, body: Option<&Body>) -> Result<Vec<u8>, RevocationError> {
        let body = body.map(Body::encode).transpose()?.unwrap_or_default();
        if body.len() > BODY_BYTES_MAX {
            let (limit, found) = (BODY_BYTES_MAX, body.len());
            return Err(RevocationError::TooMany {
                what: "octets of a body",
                limit,
                found,
            });
        }
        header.check_kind(body.is_empty())?;
        let encoded = header.encode(&body);
        let signature = self.pair.sign(&Header::to_be_signed(&encoded));
        Ok([&encoded[..], signature.as_ref(), &body].concat())
    }
}

impl fmt::Debug for RevocationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationKey({}, ..)", self.id)
    }
}
