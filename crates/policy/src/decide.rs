//! The decision: what the CA itself has proven about an agent, what it wants, and the state, give a Grant or a Denial.

use std::time::Duration;

use mintage_attest::Attested;
use mintage_identity::{EntryName, UnixTime};

use crate::grant::{Denial, DenialKind, Grant, GrantedAgent, GrantedEntry, Profile};
use crate::view::{AgentStatus, EntryView, IssuancePolicy, not_before_floor};

/// Oldest proof a decision rests on: proofs are made per message, so an older one was kept where it should not be.
const PROOF_AGE_MAX: Duration = Duration::from_secs(120);

/// What an attested agent asks for. It names an entry, never an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A certificate by this entry.
    Entry(EntryName),
    /// The agent's own certificate.
    AgentItself,
}

/// Decides whether `attested` gets what it wants.
///
/// # Errors
/// The one thing that failed.
pub fn decide(
    attested: &Attested,
    want: &Want,
    view: &impl EntryView,
    now: UnixTime,
    policy: &IssuancePolicy,
) -> Result<Grant, Denial> {
    let agent = standing_agent(attested, view, now)?;
    match want {
        Want::Entry(name) => by_entry(agent, name, view, now, policy),
        Want::AgentItself => {
            let spiffe_id = agent.id.clone();
            Ok(Grant {
                not_before_floor: not_before_floor(&spiffe_id, view, now)?,
                spiffe_id,
                ttl: policy.agent_ttl,
                dns_names: Vec::new(),
                common_name: None,
                entry: None,
                agent: Some(agent),
                decided_at: view.control_index(),
                profile: Profile::Agent,
                rule: "agent-itself",
            })
        }
    }
}

/// The agent, if the state still knows it as it was attested.
fn standing_agent(attested: &Attested, view: &impl EntryView, now: UnixTime) -> Result<GrantedAgent, Denial> {
    let refuse = |code, why: String| Err(Denial::new(DenialKind::Unauthenticated, code, why));
    let id = attested.agent();
    let age = now.since(attested.proven_at());
    if age > PROOF_AGE_MAX {
        return refuse(
            "proof-too-old",
            format!("{id} was proven {} s ago; prove it again", age.as_secs()),
        );
    }
    let Some(state) = view.agent(attested.name()) else {
        return refuse("agent-unknown", format!("{id} is not registered; join with a token"));
    };
    if state.instance != attested.instance() {
        let why = format!(
            "{id} was joined anew; this is its former instance {}",
            attested.instance()
        );
        return refuse("agent-superseded", why);
    }
    match state.status {
        AgentStatus::Active => Ok(GrantedAgent {
            id: id.clone(),
            instance: state.instance,
            attestation: attested.kind(),
            evidence: *attested.evidence(),
            proven_at: attested.proven_at(),
        }),
        AgentStatus::Banned => refuse("agent-banned", format!("{id} is banned")),
        AgentStatus::Evicted => refuse("agent-evicted", format!("{id} was evicted; join with a new token")),
    }
}

fn by_entry(
    agent: GrantedAgent,
    name: &EntryName,
    view: &impl EntryView,
    now: UnixTime,
    policy: &IssuancePolicy,
) -> Result<Grant, Denial> {
    let Some((entry, revision)) = view.entry(name) else {
        return Err(Denial::new(
            DenialKind::NotFound,
            "entry-unknown",
            format!("there is no entry {name}"),
        ));
    };
    if !entry.is_for_agent(&agent.id) {
        let why = format!("entry {name} is not for {}", agent.id);
        return Err(Denial::new(DenialKind::PermissionDenied, "entry-not-for-agent", why));
    }
    if entry.is_disabled() {
        let why = format!("entry {name} is disabled");
        return Err(Denial::new(DenialKind::PermissionDenied, "entry-disabled", why));
    }
    Ok(Grant {
        not_before_floor: not_before_floor(entry.spiffe_id(), view, now)?,
        spiffe_id: entry.spiffe_id().clone(),
        ttl: entry.ttl().min(policy.max_ttl),
        dns_names: entry.dns_names().to_vec(),
        common_name: entry.common_name().map(str::to_owned),
        entry: Some(GrantedEntry {
            name: name.clone(),
            revision,
            selectors: entry.selectors().clone(),
        }),
        agent: Some(agent),
        decided_at: view.control_index(),
        profile: Profile::Workload,
        rule: "entry",
    })
}
