//! What a question looks for, and what every part of the index, in memory or sealed, answers.

use std::borrow::Cow;

use mintage_identity::{IdPrefix, IssuerKeyId, Serial, SpiffeId, SpkiHash};

use super::query::{Hit, LiveCertificate, LiveSerial};
use crate::{
    LedgerError,
    about::{is_about_prefix, prefixes_over},
    kind::Kind,
    seg::index::Span,
};

/// Conditions that must all hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) spiffe_id: Option<&'a SpiffeId>,
    pub(super) prefix: Option<&'a IdPrefix>,
    /// The agent's name.
    pub(super) agent: Option<&'a str>,
    pub(super) entry: Option<&'a str>,
    pub(super) serial: Option<&'a Serial>,
    /// Whether revocations of the certificate with that serial are wanted beside it.
    pub(super) revocations: bool,
    pub(super) key: Option<&'a SpkiHash>,
    pub(super) request: Option<u32>,
    pub(super) issuer: Option<&'a IssuerKeyId>,
    pub(super) instance: Option<u64>,
    /// A bit for each kind.
    pub(super) kinds: u64,
    /// Milliseconds.
    pub(super) since: i64,
    pub(super) until: i64,
    /// Only certificates whose validity ends at this second or later.
    pub(super) live_at: Option<i64>,
}

impl Wanted<'_> {
    /// Everything; conditions are put over it.
    pub(super) fn anything() -> Self {
        Self {
            spiffe_id: None,
            prefix: None,
            agent: None,
            entry: None,
            serial: None,
            revocations: false,
            key: None,
            request: None,
            issuer: None,
            instance: None,
            kinds: u64::MAX,
            since: i64::MIN,
            until: i64::MAX,
            live_at: None,
        }
    }

    /// False when no record of such times and kinds can match.
    pub(super) fn may_be_in(&self, span: &Span) -> bool {
        span.kind_set & self.kinds != 0
            && span.overlaps(self.since, self.until)
            && self.live_at.is_none_or(|now| span.not_after_max >= now)
    }

    pub(super) fn kind_and_time_fit(&self, kind: u8, time_ms: i64) -> bool {
        self.kinds & 1 << (kind & 63) != 0 && (self.since..=self.until).contains(&time_ms)
    }

    /// True when kind or time are asked for.
    pub(super) fn asks_kind_or_time(&self) -> bool {
        self.kinds != u64::MAX || self.since != i64::MIN || self.until != i64::MAX
    }

    /// The names by which records about the identity are found, among records of these kinds: revocations may be about a prefix
    /// that it lies below.
    pub(super) fn identities(&self, kind_set: u64) -> Option<Vec<Cow<'_, str>>> {
        let id = self.spiffe_id?;
        let mut names = vec![Cow::Borrowed(id.as_str())];
        if self.live_at.is_none() && self.kinds & kind_set & 1 << (Kind::Revoke as u8) != 0 {
            names.extend(prefixes_over(id).map(Cow::Owned));
        }
        Some(names)
    }

    pub(super) fn prefix_fits(&self, name: &str) -> bool {
        self.prefix.is_none_or(|prefix| is_about_prefix(name, prefix))
    }
}

/// A run of consecutive records.
pub(super) trait Rows {
    fn first(&self) -> u64;

    fn count(&self) -> usize;

    fn span(&self) -> Span;

    /// The places that match, ascending, and how many were looked at.
    fn select(&self, wanted: &Wanted<'_>) -> Result<(Vec<u16>, usize), LedgerError>;

    /// The records at these places.
    fn hits(&self, places: &[u16]) -> Result<Vec<Hit>, LedgerError>;

    /// The certificates of those of these records that hold one.
    fn certificates(&self, places: &[u16]) -> Result<Vec<LiveCertificate>, LedgerError>;

    /// What names these certificates in a filter.
    fn serials(&self, places: &[u16]) -> Result<Vec<LiveSerial>, LedgerError>;
}
