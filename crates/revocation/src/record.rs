//! What the ledger's records say to the set, and what the set says of single certificates.

use mintage_identity::{IssuerKeyId, RevocationReason, Serial, UnixTime};

use crate::{Rule, SerialKind};

/// A revoked certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevokedSerial {
    /// The key that issued it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
    /// Its end: it is forgotten 10 min after the bucket that this falls in.
    pub not_after: UnixTime,
}

/// What one ledger record revokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Time of the record.
    pub at: UnixTime,
    /// Single certificates.
    pub serials: Vec<RevokedSerial>,
    /// Whatever matches these.
    pub rules: Vec<Rule>,
    /// Why (RFC 5280, section 5.3.1).
    pub reason: RevocationReason,
}

/// An issuing key whose certificates verifiers may ask for. Roots count too: they issue the intermediates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IssuerCoverage {
    /// The key.
    pub id: IssuerKeyId,
    /// How it makes serials.
    pub serials: SerialKind,
    /// When the last certificate it signed has ended; afterwards it is no longer covered. `None` when not known.
    pub until: Option<UnixTime>,
}

/// A certificate that was issued, is not revoked, and has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSerial {
    /// The key that issued it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
    /// Its end.
    pub not_after: UnixTime,
}

/// An issued, unrevoked certificate whose fingerprint is that of a revoked one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exception {
    /// The key that issued it.
    pub issuer: IssuerKeyId,
    /// Its serial.
    pub serial: Serial,
}

/// How one serial was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// Ledger index of the record.
    pub sequence: u64,
    /// Time of the record.
    pub at: UnixTime,
    /// Why.
    pub reason: RevocationReason,
}
