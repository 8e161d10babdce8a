//! The signed header that snapshot, delta and heartbeat share: 256 octets of fields and a 64-octet Ed25519 signature.

use mintage_identity::{TrustDomain, UnixTime};
use ring::digest;

use crate::{RevocationError, bucket::horizon_at, limits::BODY_BYTES_MAX, octets::Fields};

const WHAT: &str = "header";
const MAGIC: &[u8; 8] = b"MNTGRVK1";
const VERSION: u16 = 1;
/// Ed25519 (RFC 8032).
const ALGORITHM: u8 = 1;
/// What is signed is this label and the first 256 octets of the header.
const LABEL: &[u8] = b"mintage-revocation-header-v1\0";
const TRUST_DOMAIN_LABEL: &[u8] = b"mintage-revocation-trust-domain-v1\0";

/// Octets of the header that are signed.
pub(crate) const SIGNED_LEN: usize = 256;
/// Octets of the header with its signature; the body starts here.
pub(crate) const HEADER_LEN: usize = SIGNED_LEN + SIGNATURE_LEN;
const SIGNATURE_LEN: usize = 64;

/// Hash that names one state of a revoked set: a chain over every change folded in, so that it depends on the ledger
/// alone. A delta carries the hash of the state it continues.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetHash(pub(crate) [u8; 32]);

impl SetHash {
    /// A hash that was kept.
    pub const fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// The octets.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SetHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SetHash({self})")
    }
}

impl std::fmt::Display for SetHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Labelled SHA-256 of the trust domain's name: what the formats carry in its stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomainHash(pub(crate) [u8; 32]);

impl TrustDomainHash {
    /// The hash of `domain`.
    pub fn of(domain: &TrustDomain) -> Self {
        Self(sha256(&[TRUST_DOMAIN_LABEL, domain.as_str().as_bytes()]))
    }
}

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Kind of a signed object. The values are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Snapshot = 1,
    Delta = 2,
    Heartbeat = 3,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Delta => "delta",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// The fields of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) trust_domain: TrustDomainHash,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    /// Delta: the sequence it continues; else zero.
    pub(crate) base_sequence: u64,
    /// Delta: the set's hash at `base_sequence`; else zeros.
    pub(crate) previous: SetHash,
    /// The set's hash at `sequence`.
    pub(crate) set_hash: SetHash,
    pub(crate) this_update: UnixTime,
    pub(crate) next_update: UnixTime,
    /// Certificates that ended before this are not covered.
    pub(crate) horizon: UnixTime,
    pub(crate) key_id: [u8; 32],
}

/// A header with the body it was read with; nothing is verified yet.
pub(crate) struct Framed<'a> {
    pub(crate) header: Header,
    signed: &'a [u8],
    pub(crate) signature: &'a [u8],
    body_sha256: [u8; 32],
    pub(crate) body: &'a [u8],
}

impl Header {
    /// The octets to be signed with `body`, without the label.
    pub(crate) fn encode(&self, body: &[u8]) -> [u8; SIGNED_LEN] {
        let mut out = Vec::with_capacity(SIGNED_LEN);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, ALGORITHM]);
        out.extend_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.trust_domain.0);
        for number in [self.epoch, self.sequence, self.base_sequence] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.previous.0);
        out.extend_from_slice(&self.set_hash.0);
        for time in [self.this_update, self.next_update, self.horizon] {
            out.extend_from_slice(&time.millis().to_le_bytes());
        }
        out.extend_from_slice(&self.key_id);
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&sha256(&[body]));
        let mut fixed = [0; SIGNED_LEN];
        fixed[..out.len()].copy_from_slice(&out);
        fixed
    }

    /// What a key signs for `encoded`, the octets of [`Header::encode`].
    pub(crate) fn to_be_signed(encoded: &[u8]) -> Vec<u8> {
        [LABEL, encoded].concat()
    }
}

impl<'a> Framed<'a> {
    /// Reads the frame of `bytes`: every field and length is checked against the buffer, nothing is believed yet.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, RevocationError> {
        let refuse = |problem: String| Err(RevocationError::malformed(WHAT, problem));
        if bytes.len() < HEADER_LEN {
            return refuse(format!("{} octets, a header has {HEADER_LEN}", bytes.len()));
        }
        let (head, body) = bytes.split_at(HEADER_LEN);
        let (signed, signature) = head.split_at(SIGNED_LEN);
        let mut fields = Fields::new(signed);
        if fields.array() != *MAGIC {
            return refuse("it does not start with MNTGRVK1".into());
        }
        let version = u16::from_le_bytes(fields.array());
        let [kind, algorithm] = fields.array();
        let kind = [Kind::Snapshot, Kind::Delta, Kind::Heartbeat]
            .into_iter()
            .find(|k| *k as u8 == kind);
        if version != VERSION || algorithm != ALGORITHM {
            return Err(RevocationError::Unsupported {
                what: WHAT,
                found: u64::from(version) << 8 | u64::from(algorithm),
                known: u64::from(VERSION) << 8 | u64::from(ALGORITHM),
            });
        }
        let Some(kind) = kind else {
            return refuse("its kind is unknown".into());
        };
        if u32::from_le_bytes(fields.array()) as usize != HEADER_LEN {
            return refuse(format!("its length is not {HEADER_LEN}"));
        }
        if fields.array() != [0; 8] {
            return refuse("a flag is set that this version does not know".into());
        }
        let header = Header {
            kind,
            trust_domain: TrustDomainHash(fields.array()),
            epoch: fields.number(),
            sequence: fields.number(),
            base_sequence: fields.number(),
            previous: SetHash(fields.array()),
            set_hash: SetHash(fields.array()),
            this_update: fields.time(),
            next_update: fields.time(),
            horizon: fields.time(),
            key_id: fields.array(),
        };
        let body_len = fields.number();
        if body_len != body.len() as u64 || body.len() > BODY_BYTES_MAX {
            let found = body.len();
            return refuse(format!(
                "its body has {found} octets, it says {body_len}, the limit is {BODY_BYTES_MAX}"
            ));
        }
        let body_sha256 = fields.array();
        if fields.array() != [0; 16] {
            return refuse("its reserved octets are not zero".into());
        }
        header.check_kind(body.is_empty())?;
        Ok(Self {
            header,
            signed,
            signature,
            body_sha256,
            body,
        })
    }

    /// The octets under the signature.
    pub(crate) fn to_be_signed(&self) -> Vec<u8> {
        Header::to_be_signed(self.signed)
    }

    pub(crate) fn body_is_the_signed_one(&self) -> bool {
        sha256(&[self.body]) == self.body_sha256
    }
}

impl Header {
    /// Fields that depend on the kind or on each other.
    pub(crate) fn check_kind(&self, empty: bool) -> Result<(), RevocationError> {
        let zeros = self.base_sequence == 0 && self.previous.0 == [0; 32];
        let fits = match self.kind {
            Kind::Snapshot => zeros && !empty,
            Kind::Delta => self.base_sequence < self.sequence && !empty,
            Kind::Heartbeat => zeros && empty,
        };
        if !fits {
            let problem = format!("its base or body does not fit a {}", self.kind.as_str());
            return Err(RevocationError::malformed(WHAT, problem));
        }
        // A horizon nearer than the grace would drop certificates that some clock still honours.
        if self.next_update <= self.this_update || self.horizon > horizon_at(self.this_update) {
            return Err(RevocationError::malformed(WHAT, "its times contradict each other"));
        }
        Ok(())
    }
}
