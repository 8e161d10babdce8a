//! Certificates whose delivery ended on their agent: revoked at once, because a folder that nobody keeps may be read by anybody.
//! An agent can end in this way only what was issued to itself by an entry.

use std::{collections::BTreeMap, sync::Arc};

use mintage_attest::AgentSession;
use mintage_identity::{AgentName, EntryName, RevocationReason, Serial};
use mintage_ledger::{Body, LiveCertificate};
use mintage_proto::v1::Release;
use mintage_state::{View, command::Scope};
use tonic::Code;
use tracing::{debug, error, info};

use crate::{
    control::{Origin, command},
    desk::Desk,
    limits::RELEASED_PER_MESSAGE_MAX,
    revoke::{Order, draft_of},
    scope::live_in,
    services::sync::check,
    status::Refusal,
};

/// The serials of a message.
///
/// # Errors
/// More than one message may hold, and what is no serial.
pub(crate) fn read(release: &Release) -> Result<Vec<Serial>, Refusal> {
    let found = release.serials.len();
    if found > RELEASED_PER_MESSAGE_MAX {
        let text = format!("release.serials: {found} in one message, the limit is {RELEASED_PER_MESSAGE_MAX}");
        return Err(Refusal::new(Code::ResourceExhausted, "releases", text));
    }
    let serial = |octets: &Vec<u8>| Serial::from_be_octets(octets);
    let serials: Result<_, _> = release.serials.iter().map(serial).collect();
    serials.map_err(|error| Refusal::invalid(format!("release.serials: {error}")))
}

/// Revokes those of the certificates that live and were issued to this agent by an entry, when no other agent's are in work: of
/// all that agents release, one command at most stands in the way of operators.
pub(crate) async fn strike(desk: &Arc<Desk>, session: &AgentSession, name: &AgentName, serials: &[Serial]) {
    // The semaphore is never closed; were it, there would be no order among agents.
    let _one = desk.releasing.acquire().await;
    let draft = |view: &View| {
        // It waited for its turn: may this agent still speak?
        check(desk, session)?;
        drafts(desk, view, name, serials)
    };
    match command(desk, &Origin::replica(desk), draft).await {
        Ok((0, _)) => debug!(agent = %session.id, "nothing that was released lives"),
        Ok((certificates, _)) => {
            desk.metrics.revoked(RevocationReason::CessationOfOperation.as_str());
            info!(agent = %session.id, certificates, "revoked what was delivered into folders that are no longer kept");
        }
        Err(problem) => {
            error!(agent = %session.id, %problem, "what an agent released is not revoked; it is good until it ends")
        }
    }
}

fn drafts(desk: &Desk, view: &View, agent: &AgentName, serials: &[Serial]) -> Result<(Vec<Body>, u64), Refusal> {
    let mut by_entry: BTreeMap<EntryName, Vec<LiveCertificate>> = BTreeMap::new();
    for serial in serials {
        for row in live_in(desk, view, &Scope::Serial(*serial))? {
            let is_its_own = row.agent.as_deref() == Some(agent.as_str());
            let entry = row.entry.as_deref().and_then(|name| EntryName::parse(name).ok());
            let is_revoked = view.revoked().revoked(&row.issuer, &row.serial).is_some();
            if let (true, false, Some(entry)) = (is_its_own, is_revoked, entry) {
                by_entry.entry(entry).or_default().push(row);
            }
        }
    }
    let (mut bodies, mut certificates) = (Vec::new(), 0);
    for (entry, rows) in by_entry {
        let note = format!("its delivery on agent {agent} ended");
        let order = Order::new(Scope::Entry(entry), RevocationReason::CessationOfOperation, note);
        let (more, struck) = draft_of(desk, view, &order, &rows)?;
        bodies.extend(more);
        certificates += struck.certificates;
    }
    Ok((bodies, certificates))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{limits::COMMANDS_WAITING_MAX, trial::Trial};

    #[tokio::test(flavor = "multi_thread")]
    async fn what_agents_release_takes_one_place_and_operators_find_the_others() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["web", "db"]).await;
        let agent = trial.agent("n1").await;
        let name = AgentName::parse("n1").unwrap();
        let leaves = [
            trial.certificate(&agent, "web").await,
            trial.certificate(&agent, "db").await,
        ];
        let front = desk.turns.take().await.unwrap();
        let serials = leaves.each_ref().map(|leaf| [*leaf.serial()]);
        let mut releases = serials.each_ref().map(|one| Box::pin(strike(desk, &agent, &name, one)));
        for release in &mut releases {
            assert!(release.now_or_never().is_none(), "its turn has not come");
        }
        // One is in front, and one of the two waits.
        let mut operators: Vec<_> = (2..COMMANDS_WAITING_MAX).map(|_| Box::pin(desk.turns.take())).collect();
        for operator in &mut operators {
            assert!(operator.now_or_never().is_none(), "it has a place, and waits");
        }
        drop((operators, front));
        for release in releases {
            release.await;
        }
        assert!(leaves.iter().all(|leaf| trial.is_revoked(leaf)));
    }
}
