//! `entry enable` and `entry disable`: one entry as it stands, but for whether it issues.

use clap::Args;
use mintage_identity::EntryName;
use mintage_proto::v1::{ApplyEntriesRequest, ShowEntryRequest};
use serde::Serialize;

use super::EntryRow;
use crate::{cli::Context, failure::Failure};

/// `entry enable` and `entry disable`.
#[derive(Args, Debug)]
pub(crate) struct Switch {
    /// Its name.
    name: EntryName,
    /// Says what would change; nothing is changed.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Switched {
    #[serde(flatten)]
    entry: EntryRow,
    /// False when it stood like this already.
    changed: bool,
    dry_run: bool,
}

/// Runs the verb. What somebody else changes meanwhile is not undone: then the CA refuses.
pub(super) async fn run(context: &Context, switch: &Switch, disabled: bool) -> Result<(), Failure> {
    let mut registry = context.ca().await?.registry();
    let request = ShowEntryRequest {
        name: switch.name.to_string(),
    };
    let mut entry = registry
        .show_entry(request)
        .await?
        .into_inner()
        .entry
        .unwrap_or_default();
    let changed = entry.disabled != disabled;
    entry.disabled = disabled;
    if changed {
        let request = ApplyEntriesRequest {
            entries: vec![entry.clone()],
            dry_run: switch.dry_run,
            ..ApplyEntriesRequest::default()
        };
        let applied = registry.apply_entries(request).await?.into_inner();
        if let Some(change) = applied.changes.first().filter(|_| !switch.dry_run) {
            entry.revision = change.revision;
        }
    }
    let switched = Switched {
        entry: entry.into(),
        changed,
        dry_run: switch.dry_run,
    };
    let name = &switch.name;
    context.output.object(&switched, || {
        let done = if disabled { "disable" } else { "enable" };
        match (changed, switch.dry_run) {
            (true, true) => format!("would {done} entry {name}\n"),
            (true, false) => format!("{done}d entry {name}\n"),
            (false, _) => format!("entry {name} is {done}d already\n"),
        }
    })
}
