//! `entry apply` and `entry create`: a set of entries goes to the CA, and what became of it is told.

use clap::Args;
use mintage_policy::Entry;
use mintage_proto::v1::{self, entry_change::Action};
use serde::Serialize;

use super::{
    parts::{self, Sent},
    source,
};
use crate::{cli::Context, client::Ca, failure::Failure};

/// `entry apply`.
#[derive(Args, Debug)]
pub(crate) struct Apply {
    #[command(flatten)]
    source: source::Source,
    /// Says what would change; nothing is changed.
    #[arg(long)]
    dry_run: bool,
    /// Deletes the entries that are not among these, and revokes what was issued through them.
    #[arg(long)]
    prune: bool,
    /// With --dry-run: exits with 3 when something would change.
    #[arg(long, requires = "dry_run")]
    check: bool,
}

/// How a set is applied.
#[derive(Debug, Default)]
pub(super) struct Mode {
    pub(super) dry_run: bool,
    pub(super) prune: bool,
    check: bool,
    pub(super) create_only: bool,
}

impl Mode {
    pub(super) fn create(dry_run: bool) -> Self {
        Self {
            dry_run,
            create_only: true,
            ..Self::default()
        }
    }

    pub(super) fn add(dry_run: bool) -> Self {
        Self {
            dry_run,
            ..Self::default()
        }
    }
}

#[derive(Serialize)]
struct ChangeRow {
    action: &'static str,
    name: String,
    details: Vec<String>,
    revision: u64,
}

/// What became of a set.
#[derive(Serialize)]
pub(super) struct Applied {
    created: usize,
    updated: usize,
    deleted: usize,
    unchanged: usize,
    changes: Vec<ChangeRow>,
    warnings: Vec<String>,
    index: u64,
    dry_run: bool,
}

impl From<v1::EntryChange> for ChangeRow {
    fn from(change: v1::EntryChange) -> Self {
        let action = match change.action() {
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Unchanged => "unchanged",
            Action::Unspecified => "unknown",
        };
        Self {
            action,
            name: change.name,
            details: change.details,
            revision: change.revision,
        }
    }
}

impl Applied {
    fn new(answer: v1::ApplyEntriesResponse, dry_run: bool) -> Self {
        let changes: Vec<ChangeRow> = answer.changes.into_iter().map(Into::into).collect();
        let of = |action: &str| changes.iter().filter(|change| change.action == action).count();
        Self {
            created: of("create"),
            updated: of("update"),
            deleted: of("delete"),
            unchanged: of("unchanged"),
            changes,
            warnings: answer.warnings,
            index: answer.index,
            dry_run,
        }
    }

    fn is_empty(&self) -> bool {
        self.created + self.updated + self.deleted == 0
    }

    /// The form for people.
    pub(super) fn text(&self) -> String {
        let shown = self.changes.iter().filter(|change| change.action != "unchanged");
        let lines = shown.flat_map(|change| {
            let head = format!("{:7} {}\n", change.action, change.name);
            let details = change
                .details
                .iter()
                .map(|detail| format!("        {}\n", crate::text::printable(detail)));
            std::iter::once(head).chain(details).collect::<Vec<_>>()
        });
        let (create, update, delete) = match self.dry_run {
            true => ("to create", "to change", "to delete"),
            false => ("created", "changed", "deleted"),
        };
        let (created, updated, deleted, same) = (self.created, self.updated, self.deleted, self.unchanged);
        let sum = format!("{created} {create}, {updated} {update}, {deleted} {delete}, {same} unchanged\n");
        let warnings = self.warnings.iter();
        let warnings = warnings.map(|warning| format!("warning: {}\n", crate::text::printable(warning)));
        lines.chain([sum]).chain(warnings).collect()
    }
}

/// Runs `entry apply`.
pub(super) async fn run(context: &Context, apply: &Apply) -> Result<(), Failure> {
    let ca = context.ca().await?;
    let entries = source::load(&apply.source.path, &ca.trust_domain().await?)?;
    if entries.is_empty() && apply.prune {
        return Err(Failure::file(
            &apply.source.path,
            "holds no entry; --prune would delete every entry there is: use entry delete if that is meant",
        ));
    }
    let mode = Mode {
        dry_run: apply.dry_run,
        prune: apply.prune,
        check: apply.check,
        create_only: false,
    };
    send(context, &ca, &entries, &mode).await
}

/// Sends a set and tells what became of it.
pub(super) async fn send(context: &Context, ca: &Ca, entries: &[Entry], mode: &Mode) -> Result<(), Failure> {
    let (applied, rest) = exchange(ca, entries, mode).await?;
    context.output.object(&applied, || applied.text())?;
    rest?;
    match mode.check && !applied.is_empty() {
        true => Err(Failure::No("what stands differs from these entries".into())),
        false => Ok(()),
    }
}

/// Sends a set; what became of it, and why not all of it was sent.
pub(super) async fn exchange(
    ca: &Ca,
    entries: &[Entry],
    mode: &Mode,
) -> Result<(Applied, Result<(), Failure>), Failure> {
    let Sent { answer, rest } = parts::send(ca, entries, mode).await?;
    Ok((Applied::new(answer, mode.dry_run), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: Action, name: &str, details: &[&str]) -> v1::EntryChange {
        v1::EntryChange {
            action: action.into(),
            name: name.into(),
            details: details.iter().map(|detail| (*detail).to_owned()).collect(),
            revision: 0,
        }
    }

    #[test]
    fn a_plan_reads_as_what_would_be_done() {
        let answer = v1::ApplyEntriesResponse {
            changes: vec![
                change(Action::Create, "a", &[]),
                change(Action::Update, "b", &["ttl: 10m -> 5m\u{1b}"]),
                change(Action::Unchanged, "c", &[]),
            ],
            index: 0,
            warnings: vec!["no bundle\n".into()],
        };
        let applied = Applied::new(answer, true);
        let text = applied.text();
        assert_eq!(
            text,
            "create  a\nupdate  b\n        ttl: 10m -> 5m\\u{1b}\n1 to create, 1 to change, 0 to delete, 1 unchanged\n\
             warning: no bundle\\n\n"
        );
        assert!(!applied.is_empty());
    }
}
