//! A record in one line for people: who caused it, and what happened.

use mintage_ledger::{Actor, Body, Record, wire::SeenReport};

/// Who caused a record, in one word.
pub fn actor(actor: &Actor) -> String {
    match actor {
        Actor::Agent { id, .. } => id.to_string(),
        Actor::Admin { uid, .. } => format!("admin uid {uid}"),
        Actor::Replica { id } => id.to_string(),
        Actor::Token { hash } => format!("token {}", hex::encode(&hash[..8])),
        _ => "unknown".to_owned(),
    }
}

/// What happened, in one line. Names in it may hold anything; whoever shows it escapes it.
pub fn what(record: &Record) -> String {
    match &record.body {
        Body::Issue(issue) if issue.entry.is_empty() => format!("{} for itself", issue.spiffe_id),
        Body::Issue(issue) => format!(
            "{} by entry {} at {}",
            issue.spiffe_id, issue.entry, issue.entry_revision
        ),
        Body::IssueJwt(issue) => format!(
            "{} by entry {} at {} for {}",
            issue.spiffe_id,
            issue.entry,
            issue.entry_revision,
            issue.audiences.join(" ")
        ),
        Body::Deny(deny) => format!("{}: {}", deny.code, deny.why),
        Body::Revoke(revoke) => format!(
            "{}: {} serials, {} rules",
            revoke.scope,
            revoke.serials.len(),
            revoke.rules.len()
        ),
        Body::EntryPut(put) => format!("entry {} -> {}", put.name, put.spiffe_id),
        Body::EntryDelete(delete) => format!("entry {}", delete.name),
        Body::TokenCreate(token) => format!("for agent {}", token.agent),
        Body::TokenConsume(token) => token
            .attest
            .as_ref()
            .map(|a| format!("agent {}", a.name))
            .unwrap_or_default(),
        Body::TokenDelete(token) => format!("for agent {}", token.agent),
        Body::AgentAttest(agent) => format!("agent {} by {}", agent.name, agent.kind),
        Body::AgentBan(agent) => format!("agent {}: {}", agent.name, agent.reason),
        Body::AgentEvict(agent) => format!("agent {}: {}", agent.name, agent.reason),
        Body::CaEvent(event) => format!("{} {}", event.role().as_str_name(), event.event().as_str_name()),
        Body::BundleChange(bundle) => format!("sequence {}, {} roots", bundle.sequence, bundle.roots_der.len()),
        Body::BundleFederatedSet(set) => format!(
            "trust domain {}, sequence {}, {} roots",
            set.trust_domain,
            set.sequence,
            set.roots_der.len()
        ),
        Body::BundleFederatedRemove(gone) => format!("trust domain {}", gone.trust_domain),
        Body::AdminEvent(event) => format!("{}: {}", event.action, event.detail),
        Body::SeenReport(seen) => seen_in_use(seen),
        Body::RevocationSnapshot(snapshot) => format!(
            "sequence {} of epoch {}: {}",
            snapshot.sequence,
            snapshot.epoch,
            hex::encode(&snapshot.snapshot_sha256)
        ),
        Body::WitnessEvent(event) => format!("{} {}", event.witness, event.event),
        Body::LogOpen(open) => open.origin.clone(),
        Body::LogClose(close) => close.reason.clone(),
    }
}

/// The first certificate that the ledger does not hold, and how many others.
fn seen_in_use(report: &SeenReport) -> String {
    let mut unknown = report.certificates.iter().filter(|seen| !seen.known);
    let Some(first) = unknown.next() else {
        return format!("{} certificates, {} more", report.certificates.len(), report.suppressed);
    };
    let others = unknown.count() as u64 + report.suppressed;
    format!(
        "not in the ledger: {} serial {}, {others} others",
        first.spiffe_id,
        hex::encode(&first.serial)
    )
}
