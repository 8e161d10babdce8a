//! What a scope reaches on one view: live certificates, and the entries that would replace them.

use std::collections::BTreeSet;

use mintage_identity::{EntryName, IssuerKeyId, Selector};
use mintage_ledger::{
    Body, LiveCertificate, LiveQuery,
    wire::{CaEventKind, CaRole},
};
use mintage_policy::Floor;
use mintage_state::{StandingEntry, View, command::Scope};
use tonic::Code;

use crate::{desk::Desk, limits::SELECTOR_RECORDS_MAX, status::Refusal};

/// The live certificates in a scope.
pub(crate) fn live_in(desk: &Desk, view: &View, scope: &Scope) -> Result<Vec<LiveCertificate>, Refusal> {
    let now = desk.clock.unguarded();
    let all = LiveQuery::default();
    let query = match scope {
        Scope::Serial(serial) => {
            // One certificate is looked up by its serial, not searched for among all.
            let Some(issued) = desk.index.certificate(serial)? else {
                return Ok(Vec::new());
            };
            let query = LiveQuery {
                spki_sha256: Some(issued.facts.spki_sha256),
                ..all
            };
            let mut rows = desk.index.live(&query, now)?;
            rows.retain(|row| row.serial == *serial);
            return Ok(rows);
        }
        Scope::Selector(selector) => return holding(desk, view, selector),
        Scope::Identity(id) => LiveQuery {
            spiffe_id: Some(id.clone()),
            ..all
        },
        Scope::Prefix(prefix) => LiveQuery {
            id_prefix: Some(prefix.clone()),
            ..all
        },
        Scope::Agent(name) => LiveQuery {
            agent: Some(name.to_string()),
            ..all
        },
        Scope::Entry(name) => LiveQuery {
            entry: Some(name.to_string()),
            ..all
        },
        Scope::Key(key) => LiveQuery {
            spki_sha256: Some(*key),
            ..all
        },
        Scope::Issuer(issuer) => LiveQuery {
            issuer: Some(*issuer),
            ..all
        },
    };
    Ok(desk.index.live(&query, now)?)
}

/// The live certificates of entries that hold a selector, and those that were recorded with it.
fn holding(desk: &Desk, view: &View, selector: &Selector) -> Result<Vec<LiveCertificate>, Refusal> {
    let now: BTreeSet<EntryName> = entries_in(view, &Scope::Selector(selector.clone()))
        .map(|standing| standing.entry.name().clone())
        .collect();
    let live = desk.index.live(&LiveQuery::default(), desk.clock.unguarded())?;
    let of_entries = live
        .into_iter()
        .filter(|row| row.entry.as_deref().is_some_and(|name| !name.is_empty()));
    let (mut rows, others): (Vec<_>, Vec<_>) = of_entries.partition(|row| {
        let name = row.entry.as_deref().and_then(|name| EntryName::parse(name).ok());
        name.is_some_and(|name| now.contains(&name))
    });
    if others.len() > SELECTOR_RECORDS_MAX {
        let text = format!(
            "selector: {} live certificates would have to be read, the limit is {SELECTOR_RECORDS_MAX}; revoke by entry",
            others.len()
        );
        return Err(Refusal::new(Code::ResourceExhausted, "too-many", text));
    }
    let text = selector.to_string();
    for row in others {
        let Some(issued) = desk.index.certificate_of(&row.issuer, &row.serial)? else {
            continue;
        };
        let recorded = matches!(issued.stored.decode()?.body, Body::Issue(issue) if issue.selectors.contains(&text));
        rows.extend(recorded.then_some(row));
    }
    Ok(rows)
}

/// The entries by which what is in a scope would be issued again; none for scopes that are no matter of entries.
pub(crate) fn entries_in<'a>(view: &'a View, scope: &'a Scope) -> impl Iterator<Item = &'a StandingEntry> {
    view.entries().filter(move |standing| {
        let entry = &standing.entry;
        match scope {
            Scope::Identity(id) => entry.spiffe_id() == id,
            Scope::Prefix(prefix) => prefix.matches(entry.spiffe_id()),
            Scope::Entry(name) => entry.name() == name,
            Scope::Selector(selector) => entry.selectors().contains(selector),
            Scope::Serial(_) | Scope::Agent(_) | Scope::Key(_) | Scope::Issuer(_) => false,
        }
    })
}

/// Whether no other issuing key could take over from this one.
///
/// # Errors
/// A key that is no issuer of this CA.
pub(crate) fn is_last_issuer(view: &View, issuer: &IssuerKeyId) -> Result<bool, Refusal> {
    let signs = |role| matches!(role, CaRole::Root | CaRole::Intermediate);
    if !view.ca_keys().any(|key| signs(key.role) && key.key_id == *issuer) {
        let text = format!("{issuer} is no issuing key of this CA; see `mintage ca status`");
        return Err(Refusal::not_found(text));
    }
    let active = |key: &&mintage_state::CaKeyRecord| {
        key.role == CaRole::Intermediate
            && key.stage == CaEventKind::Activate
            && view.issuer_floor(&key.key_id) != Floor::Blocked
    };
    Ok(!view.ca_keys().filter(active).any(|key| key.key_id != *issuer))
}
