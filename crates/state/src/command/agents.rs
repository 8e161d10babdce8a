//! Agents: attested again, banned, evicted.

use mintage_identity::{AgentInstance, AgentName, SpkiHash};
use mintage_ledger::{Body, wire};
use mintage_policy::AgentStatus;

use crate::command::{Refusal, plain_line};
use crate::model::AgentRecord;
use crate::view::View;

/// Drafts that an agent came back after its certificate had expired, by proving its last key; `spki` is the new one.
///
/// # Errors
/// An agent that does not exist, has another instance now, or may not act.
pub fn attest_again(
    view: &View,
    name: &AgentName,
    instance: AgentInstance,
    spki: &SpkiHash,
    kind: &str,
    evidence: &[u8; 32],
) -> Result<Body, Refusal> {
    let agent = current(view, name, Some(instance))?;
    if agent.status != AgentStatus::Active {
        return Err(Refusal::AgentEnded(name.clone()));
    }
    Ok(Body::AgentAttest(wire::AgentAttest {
        name: name.to_string(),
        spiffe_id: agent.id.to_string(),
        instance_of: agent.instance.0,
        kind: kind.to_owned(),
        evidence_sha256: evidence.to_vec(),
        spki_sha256: spki.as_bytes().to_vec(),
        rejoin: true,
    }))
}

/// Drafts the ban of an agent's current instance; none when it is banned already. What it obtained is revoked by a
/// record of its own.
///
/// # Errors
/// An agent that does not exist, or whose instance is not the one named.
pub fn ban_agent(
    view: &View,
    name: &AgentName,
    instance: Option<AgentInstance>,
    reason: &str,
) -> Result<Option<Body>, Refusal> {
    plain_line("the reason", reason)?;
    let agent = current(view, name, instance)?;
    let ban = wire::AgentBan {
        name: name.to_string(),
        instance: agent.instance.0,
        reason: reason.to_owned(),
    };
    Ok((agent.status != AgentStatus::Banned).then_some(Body::AgentBan(ban)))
}

/// Drafts the eviction of an agent's current instance; none when it is evicted or banned already.
///
/// # Errors
/// An agent that does not exist, or whose instance is not the one named.
pub fn evict_agent(
    view: &View,
    name: &AgentName,
    instance: Option<AgentInstance>,
    reason: &str,
) -> Result<Option<Body>, Refusal> {
    plain_line("the reason", reason)?;
    let agent = current(view, name, instance)?;
    let evict = wire::AgentEvict {
        name: name.to_string(),
        instance: agent.instance.0,
        reason: reason.to_owned(),
    };
    Ok((agent.status == AgentStatus::Active).then_some(Body::AgentEvict(evict)))
}

fn current<'a>(view: &'a View, name: &AgentName, expected: Option<AgentInstance>) -> Result<&'a AgentRecord, Refusal> {
    let agent = view.agent(name).ok_or_else(|| Refusal::NoAgent(name.clone()))?;
    match expected {
        Some(expected) if expected != agent.instance => Err(Refusal::AgentMoved {
            name: name.clone(),
            expected,
            found: agent.instance,
        }),
        _ => Ok(agent),
    }
}
