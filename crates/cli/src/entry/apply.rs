//! `entry apply` and `entry create`: one set of entries goes to the CA, which plans and writes it as a whole.

use clap::Args;
use mintage_policy::Entry;
use mintage_proto::{
    limits::ADMIN_REQUEST_BYTES_MAX,
    v1::{self, ApplyEntriesRequest, entry_change::Action},
};
use serde::Serialize;

use super::{source, wire};
use crate::{cli::Context, client::Ca, failure::Failure, text::count};

/// Bytes an entry's message takes beyond its texts: a tag and a length for each of some 20 fields.
const FRAMING_BYTES: usize = 100;

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
    prune: bool,
    check: bool,
    create_only: bool,
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
    let applied = exchange(ca, entries, mode).await?;
    context.output.object(&applied, || applied.text())?;
    match mode.check && !applied.is_empty() {
        true => Err(Failure::No("what stands differs from these entries".into())),
        false => Ok(()),
    }
}

/// Sends a set; what became of it.
pub(super) async fn exchange(ca: &Ca, entries: &[Entry], mode: &Mode) -> Result<Applied, Failure> {
    let request = ApplyEntriesRequest {
        entries: entries.iter().map(wire).collect(),
        prune: mode.prune,
        dry_run: mode.dry_run,
        create_only: mode.create_only,
    };
    check_size(&request.entries)?;
    let answer = ca.registry().apply_entries(request).await?.into_inner();
    Ok(Applied::new(answer, mode.dry_run))
}

/// A set the CA would not read whole is refused here, where it can be said better.
fn check_size(entries: &[v1::Entry]) -> Result<(), Failure> {
    let texts = |entry: &v1::Entry| {
        let lists = entry
            .agents
            .iter()
            .chain(&entry.selectors)
            .chain(&entry.dns_names)
            .chain(&entry.jwt_audiences)
            .chain(&entry.federates_with)
            .map(|text| text.len() + 4);
        let plain = [
            &entry.name,
            &entry.spiffe_id,
            &entry.common_name,
            &entry.hint,
            &entry.owner,
            &entry.environment,
        ];
        lists.sum::<usize>() + plain.iter().map(|text| text.len()).sum::<usize>() + entry.purpose.len() + FRAMING_BYTES
    };
    let bytes: usize = entries.iter().map(texts).sum();
    match bytes > ADMIN_REQUEST_BYTES_MAX {
        true => Err(Failure::local(format!(
            "{} take {bytes} bytes, one set has at most {ADMIN_REQUEST_BYTES_MAX}; apply several directories without --prune",
            count(entries.len() as u64, "entry", "entries")
        ))),
        false => Ok(()),
    }
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

    #[test]
    fn a_set_the_ca_would_not_read_is_refused_here() {
        let entry = v1::Entry {
            purpose: "x".repeat(250),
            ..v1::Entry::default()
        };
        assert!(check_size(&vec![entry.clone(); 10_000]).is_ok());
        assert!(
            check_size(&vec![entry; 20_000])
                .unwrap_err()
                .to_string()
                .contains("at most 4194304")
        );
    }
}
