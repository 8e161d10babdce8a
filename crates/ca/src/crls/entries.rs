//! Which live certificates of one issuer are revoked: the serials of the set, and what its rules strike.

use std::collections::{BTreeMap, HashMap};

use mintage_identity::{IssuerKeyId, Serial, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{LedgerError, LiveCertificate, LiveQuery};
use mintage_mint::CrlEntry;
use mintage_revocation::{Query, RevokedSet, RuleTarget, Verdict, Why};

use crate::index::Index;

/// When a certificate came into the list for the first time, where no record says when it was revoked.
pub(super) type FirstListed = BTreeMap<Serial, UnixTime>;

/// The entries of `issuer`'s list at `now`, in the order of their serials.
///
/// # Errors
/// When the index cannot be read.
pub(super) fn entries(
    index: &Index,
    set: &RevokedSet,
    issuer: IssuerKeyId,
    first_listed: &FirstListed,
    now: UnixTime,
) -> Result<Vec<CrlEntry>, LedgerError> {
    let live = LiveQuery {
        issuer: Some(issuer),
        ..LiveQuery::default()
    };
    let cuts: HashMap<&RuleTarget, Option<UnixTime>> = set.rules().map(|rule| (&rule.target, rule.cut)).collect();
    let by_key = struck_by_key(index, &cuts, issuer, now)?;
    let mut entries = BTreeMap::new();
    for row in index.live(&live, now)? {
        if let Some(revoked) = set.revoked(&issuer, &row.serial) {
            let (serial, revoked_at) = (row.serial, revoked.at);
            let reason = Some(revoked.reason);
            entries.insert(
                serial,
                CrlEntry {
                    serial,
                    revoked_at,
                    reason,
                },
            );
            continue;
        }
        let cut = match by_key.get(&row.serial) {
            Some(cut) => Some(*cut),
            None => struck_by_rule(set, &cuts, &row),
        };
        if let Some(cut) = cut {
            let first = || first_listed.get(&row.serial).copied().unwrap_or(now);
            let entry = CrlEntry {
                serial: row.serial,
                revoked_at: cut.map_or_else(first, |cut| cut.min(now)),
                reason: None,
            };
            entries.insert(row.serial, entry);
        }
    }
    Ok(entries.into_values().collect())
}

/// The cut of the rule, if it has one, that strikes this certificate by what the index shows of it.
fn struck_by_rule(
    set: &RevokedSet,
    cuts: &HashMap<&RuleTarget, Option<UnixTime>>,
    row: &LiveCertificate,
) -> Option<Option<UnixTime>> {
    let id = SpiffeId::parse(&row.spiffe_id).ok();
    let verdict = set.check(&Query {
        issuer: row.issuer,
        serial: &row.serial,
        not_before: row.not_before,
        not_after: row.not_after,
        spiffe_id: id.as_ref(),
        // Rules on keys are looked up the other way round: the index does not show the key.
        spki_sha256: SpkiHash::new([0; 32]),
    });
    let target = match verdict {
        Verdict::Revoked { why: Why::Identity } => RuleTarget::Identity(id?),
        Verdict::Revoked { why: Why::Issuer } => RuleTarget::Issuer(row.issuer),
        Verdict::Revoked { why: Why::Prefix } => return Some(None),
        // By its serial it was looked for already; a fingerprint alone is another certificate's.
        _ => return None,
    };
    Some(cuts.get(&target).copied().flatten())
}

/// The live certificates that rules on public keys strike, with the cut of each.
fn struck_by_key(
    index: &Index,
    cuts: &HashMap<&RuleTarget, Option<UnixTime>>,
    issuer: IssuerKeyId,
    now: UnixTime,
) -> Result<BTreeMap<Serial, Option<UnixTime>>, LedgerError> {
    let mut struck = BTreeMap::new();
    for (target, cut) in cuts {
        let RuleTarget::Key(key) = target else { continue };
        let holders = LiveQuery {
            spki_sha256: Some(*key),
            issuer: Some(issuer),
            ..LiveQuery::default()
        };
        let rows = index.live(&holders, now)?.into_iter();
        let rows = rows.filter(|row| cut.is_none_or(|cut| row.not_before <= cut));
        struck.extend(rows.map(|row| (row.serial, *cut)));
    }
    Ok(struck)
}
