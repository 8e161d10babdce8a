//! What became of an issued certificate: live, expired or revoked, and by which records.

use std::time::Duration;

use mintage_identity::{IssuerKeyId, RevocationReason, Serial, SpiffeId, UnixTime};
use mintage_ledger::{Body, Kind, LedgerError, Query as RecordQuery, Record, wire};
use mintage_proto::v1;
use mintage_revocation::{Query, Verdict};
use mintage_svid::LeafInfo;

use crate::desk::Desk;

/// Revoke records of one page, of as many as a question needs.
const REVOCATIONS_PAGE: usize = 250;
/// How long after a certificate's end a revocation may be recorded that found it alive.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// The state of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateState {
    Live,
    Expired,
    /// With the date and the reason of what struck it first, where that is still known.
    Revoked(Option<(UnixTime, RevocationReason)>),
}

impl CertificateState {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked(_) => "revoked",
        }
    }

    /// Since when and why it is revoked.
    pub(crate) const fn struck(self) -> Option<(UnixTime, RevocationReason)> {
        match self {
            Self::Revoked(struck) => struck,
            Self::Live | Self::Expired => None,
        }
    }

    /// The state of the certificate in an issue record; `None` for other records.
    pub(crate) fn of(desk: &Desk, record: &Record) -> Option<Self> {
        let shown = Shown::of(record)?;
        let view = desk.state.view();
        let by_serial = view.revoked().revoked(&shown.issuer, shown.leaf.serial());
        if shown.leaf.not_after() < desk.clock.unguarded() {
            // An expired certificate that was revoked in its life is still told as revoked while the set knows it.
            let struck = by_serial.map(|entry| (entry.at, entry.reason));
            return Some(struck.map_or(Self::Expired, |struck| Self::Revoked(Some(struck))));
        }
        if !matches!(view.revoked().check(&shown.query()), Verdict::Revoked { .. }) {
            return Some(Self::Live);
        }
        let by_rule = view.struck_by_rule(&shown.query());
        let struck = by_serial.map(|entry| (entry.sequence, entry.at, entry.reason));
        let struck = struck
            .into_iter()
            .chain(by_rule.map(|mark| (mark.index, mark.at, mark.reason)));
        let first = struck.min_by_key(|(index, ..)| *index);
        Some(Self::Revoked(first.map(|(_, at, reason)| (at, reason))))
    }
}

/// A certificate as a verifier sees it.
struct Shown {
    issuer: IssuerKeyId,
    leaf: LeafInfo,
}

impl Shown {
    fn of(record: &Record) -> Option<Self> {
        let Body::Issue(issue) = &record.body else { return None };
        let issuer = IssuerKeyId::from_slice(&issue.issuer_key_id).ok()?;
        Some(Self {
            issuer,
            leaf: LeafInfo::parse(&issue.certificate_der).ok()?,
        })
    }

    fn query(&self) -> Query<'_> {
        Query {
            issuer: self.issuer,
            serial: self.leaf.serial(),
            not_before: self.leaf.not_before(),
            not_after: self.leaf.not_after(),
            spiffe_id: Some(self.leaf.id()),
            spki_sha256: self.leaf.spki_sha256(),
        }
    }

    fn is_struck_by(&self, revoke: &wire::Revoke) -> bool {
        let by_serial = revoke.serials.iter().any(|struck| {
            struck.issuer_key_id == self.issuer.as_bytes()
                && Serial::from_be_octets(&struck.serial).is_ok_and(|serial| serial == *self.leaf.serial())
        });
        by_serial || revoke.rules.iter().any(|rule| self.is_struck_by_rule(rule))
    }

    fn is_struck_by_rule(&self, rule: &wire::RevocationRule) -> bool {
        use wire::revocation_rule::Target;
        let id: &SpiffeId = self.leaf.id();
        let meant = match &rule.target {
            Some(Target::Identity(text)) => text == id.as_str(),
            Some(Target::Prefix(text)) => {
                mintage_identity::IdPrefix::parse(text).is_ok_and(|prefix| prefix.matches(id))
            }
            Some(Target::SpkiSha256(key)) => key == self.leaf.spki_sha256().as_bytes(),
            Some(Target::IssuerKeyId(issuer)) => issuer == self.issuer.as_bytes(),
            None => false,
        };
        meant
            && rule
                .cut_s
                .is_none_or(|cut| self.leaf.not_before() <= UnixTime::from_seconds(cut))
    }
}

/// The revocations that strike the certificate of this record, newest first. None strikes it after its end.
pub(crate) fn revocations_of(desk: &Desk, record: &Record) -> Result<Vec<v1::Striker>, LedgerError> {
    let told = |(index, at, revoke): (u64, UnixTime, wire::Revoke)| v1::Striker {
        index,
        time_ms: at.millis(),
        scope: revoke.scope,
        reason: reason_of(revoke.reason).to_string(),
        note: revoke.note,
    };
    let Some(shown) = Shown::of(record) else {
        return Ok(Vec::new());
    };
    let until = shown.leaf.not_after().plus(RECORDED_WITHIN);
    let strikers = strikers(desk, &shown, (record.time, Some(until)))?;
    Ok(strikers.into_iter().map(told).collect())
}

/// The reason of a recorded code; one that is not used here reads as unspecified.
pub(crate) fn reason_of(code: u32) -> RevocationReason {
    let reason = u8::try_from(code).ok().and_then(RevocationReason::from_code);
    reason.unwrap_or_default()
}

/// Whether the certificate with this serial was revoked because its key is in other hands. The ledger is asked, because
/// the revoked set forgets what has expired and a last key opens the door for days after that.
pub(crate) fn is_compromised(desk: &Desk, serial: &Serial) -> Result<bool, LedgerError> {
    let Some(issued) = desk.index.certificate(serial)? else {
        return Ok(false);
    };
    let record = issued.stored.decode()?;
    let Some(shown) = Shown::of(&record) else {
        return Ok(false);
    };
    // Whenever it became known: also after the certificate's end.
    let strikers = strikers(desk, &shown, (record.time, None))?;
    let compromised = u32::from(RevocationReason::KeyCompromise.code());
    Ok(strikers.iter().any(|(.., revoke)| revoke.reason == compromised))
}

/// The revocations recorded in this span of time that strike the certificate, newest first.
fn strikers(
    desk: &Desk,
    shown: &Shown,
    (since, until): (UnixTime, Option<UnixTime>),
) -> Result<Vec<(u64, UnixTime, wire::Revoke)>, LedgerError> {
    let query = RecordQuery {
        kinds: vec![Kind::Revoke],
        since: Some(since),
        until,
        ..RecordQuery::default()
    };
    let (mut found, mut from) = (Vec::new(), None);
    loop {
        let page = desk.index.search().query(&query, from, REVOCATIONS_PAGE)?;
        let places: Vec<u64> = page.rows.iter().map(|row| row.index).collect();
        for stored in desk.journal.read_each(&places)? {
            let record = stored.decode()?;
            if let Body::Revoke(revoke) = record.body
                && shown.is_struck_by(&revoke)
            {
                found.push((stored.index(), record.time, revoke));
            }
        }
        // A page may be empty and still have a next one.
        from = page.next;
        if from.is_none() {
            return Ok(found);
        }
    }
}
