//! The keys behind a revocation for key-compromise. Whoever holds one would only ask for the next certificate with it, so
//! they are blocked beside what they certified.

use std::collections::BTreeSet;

use mintage_identity::RevocationReason;
use mintage_ledger::LiveCertificate;
use mintage_revocation::{Rule, RuleTarget};
use mintage_state::{AgentRecord, View, command::Scope};
use tonic::Code;

use crate::{desk::Desk, limits::KEYS_BLOCKED_MAX, revoke::Order, status::Refusal};

/// The rules that block the keys of what an order strikes; none unless its reason is key-compromise. The last keys of the
/// agents in scope are among them, also when their certificates have expired: they could join again by them.
pub(crate) fn rules(
    desk: &Desk,
    view: &View,
    order: &Order,
    struck: &[LiveCertificate],
) -> Result<BTreeSet<Rule>, Refusal> {
    // An issuer's leaves are struck because its key is lost, not theirs; and a scope of one key is a rule already.
    let of_others = matches!(order.scope, Scope::Issuer(_) | Scope::Key(_));
    if order.reason != RevocationReason::KeyCompromise || of_others {
        return Ok(BTreeSet::new());
    }
    let agents = view.agents().filter(|agent| reaches(&order.scope, agent));
    let last = agents.flat_map(|agent| agent.current.iter().chain(&agent.earlier));
    let mut keys: BTreeSet<_> = last.map(|certificate| certificate.spki).collect();
    let found = struck.len() + keys.len();
    if found > KEYS_BLOCKED_MAX {
        let text = format!(
            "key-compromise blocks the key of each certificate: {found} are in scope, the limit is {KEYS_BLOCKED_MAX}; \
             revoke them in smaller scopes, or for another reason"
        );
        return Err(Refusal::new(Code::ResourceExhausted, "too-many", text));
    }
    for row in struck {
        let issued = desk.index.certificate_of(&row.issuer, &row.serial)?;
        keys.extend(issued.map(|issued| issued.facts.spki_sha256));
    }
    if let Scope::Serial(serial) = &order.scope {
        // Its key is blocked even when it has expired.
        keys.extend(desk.index.certificate(serial)?.map(|issued| issued.facts.spki_sha256));
    }
    let block = |key| Rule {
        target: RuleTarget::Key(key),
        cut: None,
    };
    Ok(keys.into_iter().map(block).collect())
}

fn reaches(scope: &Scope, agent: &AgentRecord) -> bool {
    match scope {
        Scope::Identity(id) => agent.id == *id,
        Scope::Prefix(prefix) => prefix.matches(&agent.id),
        Scope::Agent(name) => agent.name == *name,
        _ => false,
    }
}
