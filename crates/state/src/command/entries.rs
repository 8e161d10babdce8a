//! Entries: put, delete, and both at once as one apply needs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use mintage_identity::{EntryName, Ttl, UnixTime};
use mintage_ledger::{Body, wire};
use mintage_policy::Entry;

use crate::command::{Refusal, within};
use crate::convert::entry_to_put;
use crate::limits::{ENTRIES_MAX, ENTRIES_PER_COMMAND_MAX};
use crate::model::StandingEntry;
use crate::view::View;

/// What the caller believes to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever stands is replaced.
    Any,
    /// Nothing of that name.
    Absent,
    /// The entry at this revision.
    Revision(u64),
}

/// What a put comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum PutOutcome {
    /// The entry stands as it is wanted, at this revision; nothing is recorded.
    Unchanged(u64),
    /// The body to append.
    Write(Box<Body>),
}

/// What a change of several entries comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryDrafts {
    /// The bodies to append, in this order: first what goes, then what comes.
    pub bodies: Vec<Body>,
    /// Entries that stand as they are wanted, with their revisions.
    pub unchanged: Vec<(EntryName, u64)>,
}

/// Drafts the creation or the change of one entry.
///
/// # Errors
/// See [`change_entries`].
pub fn put_entry(view: &View, entry: &Entry, expected: Expected, max_ttl: Ttl) -> Result<PutOutcome, Refusal> {
    let mut drafts = change_entries(view, &[], &[(entry.clone(), expected)], max_ttl)?;
    Ok(match drafts.bodies.pop() {
        Some(body) => PutOutcome::Write(Box::new(body)),
        None => PutOutcome::Unchanged(drafts.unchanged.first().map_or(0, |(_, revision)| *revision)),
    })
}

/// Drafts the deletion of one entry, at `expected` when one is named.
///
/// # Errors
/// An entry that does not exist or is at another revision.
pub fn delete_entry(view: &View, name: &EntryName, expected: Option<u64>) -> Result<Body, Refusal> {
    let standing = view.entry(name).ok_or_else(|| Refusal::NoEntry(name.clone()))?;
    if let Some(expected) = expected.filter(|expected| *expected != standing.revision) {
        return Err(Refusal::EntryMoved {
            name: name.clone(),
            expected,
            found: standing.revision,
        });
    }
    Ok(Body::EntryDelete(wire::EntryDelete {
        name: name.to_string(),
        revision: standing.revision,
    }))
}

/// Drafts that these entries stand disabled; those that do already are left out.
///
/// # Errors
/// An entry that does not exist or cannot be read any more, and more of them than one command may change.
pub fn disable_entries(view: &View, names: &[EntryName]) -> Result<Vec<Body>, Refusal> {
    let mut bodies = Vec::new();
    for name in names {
        let standing = view.entry(name).ok_or_else(|| Refusal::NoEntry(name.clone()))?;
        if standing.entry.is_disabled() {
            continue;
        }
        let mut raw = standing.entry.to_raw();
        raw.disabled = true;
        let entry = raw.restore(view.domain()).map_err(|error| Refusal::Entry {
            name: name.clone(),
            error,
        })?;
        bodies.push(Body::EntryPut(entry_to_put(&entry, standing.revision)));
    }
    within(
        "entries to disable in one command",
        bodies.len(),
        ENTRIES_PER_COMMAND_MAX,
        "send several commands; entries that are disabled already do not count",
    )?;
    Ok(bodies)
}

/// Drafts deletions and puts together, as one command may record them: see [`plan_entries`].
///
/// # Errors
/// As [`plan_entries`], and more than [`ENTRIES_PER_COMMAND_MAX`] entries that change.
pub fn change_entries(
    view: &View,
    deletes: &[(EntryName, Option<u64>)],
    puts: &[(Entry, Expected)],
    max_ttl: Ttl,
) -> Result<EntryDrafts, Refusal> {
    let drafts = plan_entries(view, deletes, puts, max_ttl)?;
    within(
        "entries changed by one command",
        drafts.bodies.len(),
        ENTRIES_PER_COMMAND_MAX,
        "send several commands; entries which stay as they are do not count",
    )?;
    Ok(drafts)
}

/// What deletions and puts come to together, however many they are. Entries are compared as they will stand after all of
/// it, so that a rename (one name goes, another comes for the same workload) and an exchange are no duplicates.
///
/// # Errors
/// A name that is named twice, does not stand as expected, or is not there to delete; a lifetime over the server's;
/// two entries that would give the same identity to the same workload; more entries than may stand.
pub fn plan_entries(
    view: &View,
    deletes: &[(EntryName, Option<u64>)],
    puts: &[(Entry, Expected)],
    max_ttl: Ttl,
) -> Result<EntryDrafts, Refusal> {
    let mut names = BTreeSet::new();
    let all = deletes
        .iter()
        .map(|(name, _)| name)
        .chain(puts.iter().map(|(entry, _)| entry.name()));
    for name in all {
        if !names.insert(name) {
            return Err(Refusal::NamedTwice(name.clone()));
        }
    }
    let mut drafts = EntryDrafts::default();
    let mut after = view.entries.clone();
    for (name, expected) in deletes {
        drafts.bodies.push(delete_entry(view, name, *expected)?);
        after.remove(name);
    }
    for (entry, expected) in puts {
        let name = entry.name();
        let found = standing_revision(view, name, *expected)?;
        if entry.ttl() > max_ttl {
            let (asked, limit) = (entry.ttl().seconds(), max_ttl.seconds());
            return Err(Refusal::TtlTooLong {
                name: name.clone(),
                asked,
                limit,
            });
        }
        if view.entry(name).is_some_and(|standing| *standing.entry == *entry) {
            drafts.unchanged.push((name.clone(), found));
            continue;
        }
        drafts.bodies.push(Body::EntryPut(entry_to_put(entry, found)));
        // Only for the comparison below: neither revision nor time is looked at.
        let entry = Arc::new(entry.clone());
        after.insert(StandingEntry {
            entry,
            revision: found,
            changed_at: UnixTime::default(),
        });
    }
    within(
        "entries",
        after.len(),
        ENTRIES_MAX,
        "delete some, or name agents by a prefix",
    )?;
    for (entry, _) in puts {
        if let Some(other) = after.duplicate_of(entry) {
            return Err(Refusal::Duplicate {
                name: entry.name().clone(),
                other: other.entry.name().clone(),
            });
        }
    }
    Ok(drafts)
}

/// The revision that stands (0 for none), if it is the one expected.
fn standing_revision(view: &View, name: &EntryName, expected: Expected) -> Result<u64, Refusal> {
    let found = view.entry(name).map_or(0, |standing| standing.revision);
    let expected = match expected {
        Expected::Any => found,
        Expected::Absent => 0,
        Expected::Revision(revision) => revision,
    };
    if found == expected {
        Ok(found)
    } else {
        Err(Refusal::EntryMoved {
            name: name.clone(),
            expected,
            found,
        })
    }
}
