//! Which live certificates of one issuer are revoked: the serials of the set, and what its rules strike, each with the date and
//! the reason of the record that struck it first.

use std::collections::BTreeMap;

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{LedgerError, LiveCertificate, LiveQuery};
use mintage_mint::CrlEntry;
use mintage_revocation::{Query, RuleTarget, Verdict, Why};
use mintage_state::View;

use crate::index::Index;

/// The entries of `issuer`'s list at `now`, in the order of their serials.
///
/// # Errors
/// When the index cannot be read.
pub(super) fn entries(
    index: &Index,
    view: &View,
    issuer: IssuerKeyId,
    now: UnixTime,
) -> Result<Vec<CrlEntry>, LedgerError> {
    let live = LiveQuery {
        issuer: Some(issuer),
        ..LiveQuery::default()
    };
    let by_key = struck_by_key(index, view, issuer, now)?;
    let mut entries = BTreeMap::new();
    for row in index.live(&live, now)? {
        let key = by_key.get(&row.serial).copied();
        if let Some(entry) = entry(view, &row, key, now) {
            entries.insert(row.serial, entry);
        }
    }
    Ok(entries.into_values().collect())
}

/// The entry of one certificate, when it is revoked; `key` is its public key where a rule on it strikes.
fn entry(view: &View, row: &LiveCertificate, key: Option<SpkiHash>, now: UnixTime) -> Option<CrlEntry> {
    let of = |revoked_at: UnixTime, reason| CrlEntry {
        serial: row.serial,
        revoked_at: revoked_at.min(now),
        reason: Some(reason),
    };
    if let Some(revoked) = view.revoked().revoked(&row.issuer, &row.serial) {
        return Some(of(revoked.at, revoked.reason));
    }
    let id = SpiffeId::parse(&row.spiffe_id).ok();
    let query = Query {
        issuer: row.issuer,
        serial: &row.serial,
        not_before: row.not_before,
        not_after: row.not_after,
        spiffe_id: id.as_ref(),
        // The index does not show the key: what no rule on a key strikes has none here.
        spki_sha256: key.unwrap_or(SpkiHash::new([0; 32])),
    };
    let by_rule = match view.revoked().check(&query) {
        Verdict::Revoked { why: Why::Serial } => false,
        verdict => matches!(verdict, Verdict::Revoked { .. }),
    };
    // By its serial it was looked for already; a fingerprint alone is another certificate's.
    by_rule.then(|| match view.struck_by_rule(&query) {
        Some(mark) => of(mark.at, mark.reason),
        None => CrlEntry {
            serial: row.serial,
            revoked_at: now,
            reason: None,
        },
    })
}

/// The live certificates that rules on public keys strike, each with its key.
fn struck_by_key(
    index: &Index,
    view: &View,
    issuer: IssuerKeyId,
    now: UnixTime,
) -> Result<BTreeMap<Serial, SpkiHash>, LedgerError> {
    let mut struck = BTreeMap::new();
    for rule in view.revoked().rules() {
        let RuleTarget::Key(key) = rule.target else { continue };
        let holders = LiveQuery {
            spki_sha256: Some(key),
            issuer: Some(issuer),
            ..LiveQuery::default()
        };
        struck.extend(index.live(&holders, now)?.into_iter().map(|row| (row.serial, key)));
    }
    Ok(struck)
}
