//! A question by somebody who does not hold the certificate, only some of what it shows. It is answered where every
//! certificate that shows this has the same answer, and otherwise what would tell is named.

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};

use crate::Why;

/// What is known of one certificate. Its issuer must be the one whose key verified it: whoever asks vouches for that.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// SHA-256 of the public key that verified the certificate's signature, and its serial.
    pub name: Option<(IssuerKeyId, &'a Serial)>,
    /// Its SPIFFE ID.
    pub spiffe_id: Option<&'a SpiffeId>,
    /// SHA-256 of its own public key.
    pub spki_sha256: Option<SpkiHash>,
    /// Start of its validity.
    pub not_before: Option<UnixTime>,
    /// End of its validity. Without it the certificate is taken to be alive.
    pub not_after: Option<UnixTime>,
}

/// What must be known for an answer, because a rule speaks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// The SPIFFE ID.
    pub spiffe_id: bool,
    /// The public key.
    pub spki_sha256: bool,
    /// The start of validity: the rule has a cut.
    pub not_before: bool,
}

impl Missing {
    /// True when nothing is.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What the rules say of a certificate that is known in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Struck {
    /// One strikes it, whatever else it shows.
    Yes(Why),
    /// None does, or this would tell.
    Unless(Missing),
}
