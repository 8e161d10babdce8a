//! Certificates of entries that are gone, and of agents that are banned. A deletion strikes them with records of its own group,
//! and right afterwards what was issued while it was drafted; a ban is recorded before what it strikes. What a crash left behind
//! is looked for at the start and once a minute, so that none outlives its entry or the standing of its agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mintage_identity::{AgentName, EntryName, UnixTime};
use mintage_ledger::{Body, LiveQuery};
use mintage_policy::AgentStatus;
use mintage_state::{AgentRecord, View};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    control::{Origin, command},
    desk::Desk,
    limits::ORPHAN_LOOK_INTERVAL,
    revoke::{draft_of_banned, draft_of_gone},
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
    let Orphans { entries, agents } = match found
        .map_err(|error| error.to_string())
        .and_then(|found| found.map_err(|error| error.to_string()))
    {
        Ok(found) => found,
        Err(problem) => {
            return error!(error = %problem, "certificates of deleted entries and banned agents cannot be looked for");
        }
    };
    for name in agents {
        let draft = |view: &View| draft_of_banned(desk, view, &name);
        match command(desk, &Origin::replica(desk), draft).await {
            Ok((_, None)) => {}
            Ok((certificates, _)) => warn!(agent = %name, certificates, "revoked what a banned agent still had"),
            Err(problem) => {
                error!(agent = %name, error = %problem, "a banned agent's certificates are not revoked yet")
            }
        }
    }
    for name in entries {
        match strike(desk, &Origin::replica(desk), &name, None).await {
            Ok(0) => {}
            Ok(certificates) => warn!(entry = %name, certificates, "revoked what a deleted entry had left behind"),
            Err(problem) => {
                error!(entry = %name, error = %problem, "a deleted entry's certificates are not revoked yet")
            }
        }
    }
}

/// Whose certificates live and are not revoked, although they should be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Orphans {
    /// Entries that are gone.
    entries: BTreeSet<EntryName>,
    /// Agents that are banned.
    agents: BTreeSet<AgentName>,
}

fn orphaned(desk: &Desk) -> Result<Orphans, Refusal> {
    let now = desk.clock.unguarded();
    let rows = desk.index.live(&LiveQuery::default(), now)?;
    // Taken after the certificates were read: so it knows the entry of each of them that has one.
    let view = desk.state.view();
    let mut found = Orphans::default();
    let banned = view.agents().filter(|agent| agent.status == AgentStatus::Banned);
    let banned: BTreeMap<&str, &AgentRecord> = banned.map(|agent| (agent.name.as_str(), agent)).collect();
    for row in &rows {
        if view.revoked().revoked(&row.issuer, &row.serial).is_some() {
            continue;
        }
        let name = row.entry.as_deref().and_then(|name| EntryName::parse(name).ok());
        found.entries.extend(name.filter(|name| view.entry(name).is_none()));
        let agent = row.agent.as_deref().and_then(|name| banned.get(name));
        found.agents.extend(agent.map(|agent| agent.name.clone()));
    }
    let speaking = banned.values().filter(|agent| has_own(&view, agent, now));
    found.agents.extend(speaking.map(|agent| agent.name.clone()));
    Ok(found)
}

/// Does a certificate of its own live that is not revoked?
fn has_own(view: &View, agent: &AgentRecord, now: UnixTime) -> bool {
    let mut own = agent.current.iter().chain(&agent.earlier);
    own.any(|one| one.not_after > now && view.revoked().revoked(&one.issuer, &one.serial).is_none())
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use mintage_identity::RevocationReason;
    use mintage_policy::KeyView;
    use mintage_state::command::ban_agent;

    use super::*;
    use crate::{
        revoke::{carry_out, of_agent},
        trial::Trial,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ban_that_was_cut_short_is_found_with_all_that_it_should_strike() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["web"]).await;
        let agents = [trial.agent("n1").await, trial.agent("n2").await];
        let [lost, kept] = [
            trial.certificate(&agents[0], "web").await,
            trial.certificate(&agents[1], "web").await,
        ];
        assert_eq!(orphaned(desk).unwrap(), Orphans::default());
        let name = AgentName::parse("n1").unwrap();
        let ban = |view: &View| {
            Ok((
                ban_agent(view, &name, None, "key-compromise")?.into_iter().collect(),
                (),
            ))
        };
        command(desk, &trial.origin(), ban).await.unwrap();
        assert!(!trial.is_revoked(&lost));
        sweep(desk).await;
        assert!(trial.is_revoked(&lost) && !trial.is_revoked(&kept));
        let view = desk.state.view();
        let own = |serial| view.revoked().revoked(&desk.issuer.key_id(), serial).is_some();
        assert!(own(&agents[0].serial) && !own(&agents[1].serial));
        assert!(view.key_blocked(&lost.spki_sha256()), "the ban said that keys are lost");
        let records = view.applied();
        sweep(desk).await;
        assert_eq!(desk.state.view().applied(), records, "nothing is left to do");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_who_hangs_up_after_the_ban_gets_the_revocation_too() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["web"]).await;
        let agent = trial.agent("n1").await;
        let leaf = trial.certificate(&agent, "web").await;
        let order = of_agent(
            &AgentName::parse("n1").unwrap(),
            RevocationReason::PrivilegeWithdrawn,
            "",
        );
        let origin = trial.origin();
        let front = desk.turns.take().await.unwrap();
        {
            let mut called = Box::pin(carry_out(desk, &origin, &order, false));
            assert!((&mut called).now_or_never().is_none(), "its turn has not come");
        }
        drop(front);
        trial.until(|_| trial.is_revoked(&leaf)).await;
    }
}
