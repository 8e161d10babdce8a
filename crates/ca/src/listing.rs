//! Agents and explanations as listings show them.

use mintage_ledger::LiveQuery;
use mintage_policy::{AgentStatus, Explanation};
use mintage_proto::v1;
use mintage_state::AgentRecord;

use crate::desk::Desk;

/// An agent with its connection and what it holds.
pub(crate) fn wire_agent(desk: &Desk, agent: &AgentRecord) -> v1::Agent {
    let now = desk.clock.unguarded();
    let connected = desk.fleet.connected(&agent.name);
    let not_after = agent.current.as_ref().map(|certificate| certificate.not_after);
    let status = match agent.status {
        AgentStatus::Banned => "banned",
        AgentStatus::Evicted => "evicted",
        AgentStatus::Active if not_after.is_some_and(|end| end < now) => "expired",
        AgentStatus::Active => "active",
    };
    let query = LiveQuery {
        agent: Some(agent.name.to_string()),
        ..LiveQuery::default()
    };
    v1::Agent {
        name: agent.name.to_string(),
        spiffe_id: agent.id.to_string(),
        instance: agent.instance.0,
        status: status.to_owned(),
        attestation: agent.kind.clone(),
        attested_at_ms: agent.attested_at.millis(),
        serial: agent
            .current
            .as_ref()
            .map(|certificate| certificate.serial.to_string())
            .unwrap_or_default(),
        not_after_ms: not_after.map_or(0, mintage_identity::UnixTime::millis),
        connected: connected.is_some(),
        version: connected
            .as_ref()
            .map(|stream| stream.version.clone())
            .unwrap_or_default(),
        live_certificates: desk.index.live_count_shown(&query, now),
        revocation_sequence: connected.map_or(0, |stream| stream.enforced),
    }
}

/// An explanation, with the one thing that failed.
pub(crate) fn wire_explanation(explanation: Explanation) -> v1::EntryExplanation {
    v1::EntryExplanation {
        name: explanation.entry.to_string(),
        spiffe_id: explanation.spiffe_id.to_string(),
        matches: explanation.why_not.is_none(),
        why_not: match explanation.why_not {
            None => String::new(),
            Some(_) => explanation.sentence(),
        },
    }
}
