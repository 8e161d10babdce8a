//! The question asked for every certificate of a path below the root, and its answers.

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};

/// One certificate of a verified path. Ask after the signature was verified: only then the serial is the issuer's own.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// SHA-256 of the public key that verified the certificate's signature.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: &'a Serial,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// Its SPIFFE ID; a CA certificate may have none.
    pub spiffe_id: Option<&'a SpiffeId>,
    /// SHA-256 of its own public key.
    pub spki_sha256: SpkiHash,
}

/// The answer for one certificate. `Revoked` stands whatever the filter's age; `Stale` is a `Good` from a filter that is
/// not fresh (60 s), to be judged by a [`crate::FreshnessPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not revoked, and the filter is fresh.
    Good,
    /// Revoked.
    Revoked {
        /// By what.
        why: Why,
    },
    /// Not known to be revoked, but the filter is old, or there is none.
    Stale,
    /// The filter does not speak of this issuer, or of certificates that ended this long ago.
    NotCovered,
}

/// What struck a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Its serial was revoked.
    Serial,
    /// A rule on its SPIFFE ID.
    Identity,
    /// A rule on a prefix of its SPIFFE ID.
    Prefix,
    /// A rule on its public key.
    Key,
    /// A rule on its issuing key.
    Issuer,
}

impl Why {
    /// A stable word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Identity => "identity",
            Self::Prefix => "prefix",
            Self::Key => "key",
            Self::Issuer => "issuer",
        }
    }
}

/// A verdict after the freshness policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Accept {
        /// The filter was not fresh; count and log it.
        tolerated: bool,
    },
    /// Refuse the certificate.
    Refuse(Verdict),
}
