//! Certificates of entries that are gone. A deletion strikes them with records of its own group, and right afterwards what was
//! issued while it was drafted; what a crash left behind is looked for at the start and once a minute, so that none outlives its
//! entry.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::EntryName;
use mintage_ledger::{Body, LiveQuery};
use mintage_state::View;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    control::{Origin, command},
    desk::Desk,
    limits::ORPHAN_LOOK_INTERVAL,
    revoke::draft_of_gone,
    status::Refusal,
};

/// Looks now and then, until told to stop.
pub(crate) async fn watch(desk: Arc<Desk>, stop: CancellationToken) {
    let mut look = tokio::time::interval(ORPHAN_LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => sweep(&desk).await,
            () = stop.cancelled() => return,
        }
    }
}

async fn sweep(desk: &Arc<Desk>) {
    // A walk through everything that lives: not on a thread that others wait for.
    let worker = Arc::clone(desk);
    let found = tokio::task::spawn_blocking(move || orphaned(&worker)).await;
    let names = match found
        .map_err(|error| error.to_string())
        .and_then(|names| names.map_err(|error| error.to_string()))
    {
        Ok(names) => names,
        Err(problem) => return error!(error = %problem, "certificates of deleted entries cannot be looked for"),
    };
    for name in names {
        match strike(desk, &Origin::replica(desk), &name, None).await {
            Ok(0) => {}
            Ok(certificates) => warn!(entry = %name, certificates, "revoked what a deleted entry had left behind"),
            Err(problem) => {
                error!(entry = %name, error = %problem, "a deleted entry's certificates are not revoked yet")
            }
        }
    }
}

/// Names of entries that are gone and have certificates that live and are not revoked.
fn orphaned(desk: &Desk) -> Result<BTreeSet<EntryName>, Refusal> {
    let rows = desk.index.live(&LiveQuery::default(), desk.clock.unguarded())?;
    // Taken after the certificates were read: so it knows the entry of each of them that has one.
    let view = desk.state.view();
    let lost = rows.iter().filter_map(|row| {
        let name = EntryName::parse(row.entry.as_deref()?).ok()?;
        let orphan = view.entry(&name).is_none() && view.revoked().revoked(&row.issuer, &row.serial).is_none();
        orphan.then_some(name)
    });
    Ok(lost.collect())
}

/// Revokes what lives of an entry that is gone and was recorded before `before`; how many certificates. One that was made
/// anew under the same name meanwhile is left alone.
pub(crate) async fn strike(
    desk: &Arc<Desk>,
    origin: &Origin,
    name: &EntryName,
    before: Option<u64>,
) -> Result<u64, Refusal> {
    let draft = |view: &View| -> Result<(Vec<Body>, u64), Refusal> {
        match (view.entry(name), before) {
            (Some(_), None) => Ok((Vec::new(), 0)),
            _ => draft_of_gone(desk, view, name, before.or_else(|| Some(view.applied()))),
        }
    };
    Ok(command(desk, origin, draft).await?.0)
}
