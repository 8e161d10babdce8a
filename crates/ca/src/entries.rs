//! Applying and deleting registration entries: planned against what stands, recorded, and pushed to the agents by
//! whoever follows the state. An entry that goes takes its live certificates with it, in the same group of records.

use std::sync::Arc;

use mintage_identity::EntryName;
use mintage_policy::{Entry, plan};
use mintage_proto::{
    limits::ENTRIES_PER_REQUEST_MAX,
    v1::{ApplyEntriesRequest, ApplyEntriesResponse, DeleteEntryResponse, EntryChange, entry_change::Action},
};
use mintage_state::{
    View,
    command::{Expected, change_entries, delete_entry, plan_entries},
};
use tonic::Code;

use crate::{
    control::{Origin, command},
    convert::{entry_of, wire_entry},
    desk::Desk,
    federation::warnings,
    orphans::strike,
    revoke::draft_of_gone,
    status::Refusal,
};

/// Plans and applies a set of entries.
pub(crate) async fn apply(
    desk: &Arc<Desk>,
    origin: &Origin,
    request: ApplyEntriesRequest,
) -> Result<ApplyEntriesResponse, Refusal> {
    let count = request.entries.len();
    if count > ENTRIES_PER_REQUEST_MAX {
        let text = format!("{count} entries in one request, at most {ENTRIES_PER_REQUEST_MAX}; send several requests");
        return Err(Refusal::new(Code::ResourceExhausted, "too-many", text));
    }
    let expected = |revision| match revision {
        0 => Expected::Any,
        revision => Expected::Revision(revision),
    };
    let puts = request
        .entries
        .into_iter()
        .map(|entry| {
            let expected = expected(entry.revision);
            Ok((entry_of(entry, &desk.domain)?, expected))
        })
        .collect::<Result<Vec<(Entry, Expected)>, Refusal>>()?;
    let wanted: Vec<Entry> = puts.iter().map(|(entry, _)| entry.clone()).collect();
    let max_ttl = desk.policy().max_ttl;
    let draft = |view: &View| {
        let current: Vec<(Entry, u64)> = view
            .entries()
            .map(|standing| ((*standing.entry).clone(), standing.revision))
            .collect();
        let plan = plan(&current, &wanted, request.prune);
        if let Some(exists) = plan.update.first().filter(|_| request.create_only) {
            let text = format!(
                "entry {} exists already; use `entry apply` to change it",
                exists.entry.name()
            );
            return Err(Refusal::new(Code::AlreadyExists, "entry-exists", text));
        }
        let deletes: Vec<_> = plan
            .delete
            .iter()
            .map(|(name, revision)| (name.clone(), Some(*revision)))
            .collect();
        // A plan may be longer than a command, so that whoever sends several commands sees it as a whole before.
        let drafted = if request.dry_run { plan_entries } else { change_entries };
        let drafts = drafted(view, &deletes, &puts, max_ttl)?;
        let mut bodies = Vec::new();
        for (name, _) in &deletes {
            bodies.extend(draft_of_gone(desk, view, name, None)?.0);
        }
        bodies.extend(drafts.bodies);
        Ok((bodies, changes_of(&plan)))
    };
    if request.dry_run {
        let view = desk.state.view();
        let (_, changes) = draft(&view)?;
        let warnings = warnings(&view, &wanted);
        return Ok(ApplyEntriesResponse {
            changes,
            index: 0,
            warnings,
        });
    }
    let (changes, index) = command(desk, origin, draft).await?;
    for gone in changes.iter().filter(|change| change.action() == Action::Delete) {
        if let Ok(name) = EntryName::parse(&gone.name) {
            strike(desk, origin, &name, index).await?;
        }
    }
    Ok(ApplyEntriesResponse {
        changes: with_revisions(desk, changes),
        index: index.unwrap_or(0),
        warnings: warnings(&desk.state.view(), &wanted),
    })
}

fn changes_of(plan: &mintage_policy::Plan) -> Vec<EntryChange> {
    let change = |action: Action, name: &EntryName, details: Vec<String>| EntryChange {
        action: action.into(),
        name: name.to_string(),
        details,
        revision: 0,
    };
    let created = plan
        .create
        .iter()
        .map(|entry| change(Action::Create, entry.name(), Vec::new()));
    let updated = plan.update.iter().map(|update| {
        let details = update
            .diffs
            .iter()
            .map(|diff| format!("{}: {} -> {}", diff.field, diff.before, diff.after))
            .collect();
        change(Action::Update, update.entry.name(), details)
    });
    let deleted = plan
        .delete
        .iter()
        .map(|(name, _)| change(Action::Delete, name, Vec::new()));
    let unchanged = plan
        .unchanged
        .iter()
        .map(|name| change(Action::Unchanged, name, Vec::new()));
    created.chain(updated).chain(deleted).chain(unchanged).collect()
}

fn with_revisions(desk: &Desk, mut changes: Vec<EntryChange>) -> Vec<EntryChange> {
    let view = desk.state.view();
    for change in &mut changes {
        let standing = EntryName::parse(&change.name)
            .ok()
            .and_then(|name| view.entry(&name).cloned());
        change.revision = standing.map_or(0, |standing| standing.revision);
    }
    changes
}

/// Deletes one entry and revokes what was issued by it.
pub(crate) async fn delete(
    desk: &Arc<Desk>,
    origin: &Origin,
    name: &EntryName,
    dry_run: bool,
) -> Result<DeleteEntryResponse, Refusal> {
    let draft = |view: &View| {
        let entry = view
            .entry(name)
            .map(|standing| wire_entry(&standing.entry, standing.revision));
        let gone = delete_entry(view, name, None)?;
        // Revoked first: should more than a group be cut short, the entry still stands and can be deleted again.
        let (mut bodies, struck) = draft_of_gone(desk, view, name, None)?;
        bodies.push(gone);
        Ok((bodies, (entry, struck)))
    };
    if dry_run {
        let (_, (entry, revoked_certificates)) = draft(&desk.state.view())?;
        return Ok(DeleteEntryResponse {
            entry,
            index: 0,
            revoked_certificates,
        });
    }
    let ((entry, struck), index) = command(desk, origin, draft).await?;
    let late = strike(desk, origin, name, index).await?;
    Ok(DeleteEntryResponse {
        entry,
        index: index.unwrap_or(0),
        revoked_certificates: struck + late,
    })
}
