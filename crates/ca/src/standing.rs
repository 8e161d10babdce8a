//! What the state says about an agent or a token, in the words of the attestation rules.

use mintage_attest::{
    TokenHash,
    channel::{AgentCertificate, AgentStanding},
    join_token::{TokenStanding, TokenUse},
};
use mintage_identity::{AgentInstance, Reserved, SpiffeId, UnixTime};
use mintage_policy::AgentStatus;
use mintage_state::{TokenId, TokenRecord, View};

/// The standing of the agent with this SPIFFE ID; `None` for whoever is no agent, is unknown, or has no certificate yet.
pub(crate) fn of_agent(view: &View, id: &SpiffeId) -> Option<AgentStanding> {
    let Some(Reserved::Agent(name)) = id.reserved() else {
        return None;
    };
    let agent = view.agent(&name)?;
    let certificate = |known: &mintage_state::AgentCertificate| AgentCertificate {
        serial: known.serial,
        spki: known.spki,
    };
    Some(AgentStanding {
        id: agent.id.clone(),
        instance: agent.instance,
        banned: agent.status == AgentStatus::Banned,
        evicted: agent.status == AgentStatus::Evicted,
        current: certificate(agent.current.as_ref()?),
        earlier: agent.earlier.iter().map(certificate).collect(),
    })
}

/// The standing of a join token.
pub(crate) fn of_token(view: &View, hash: &TokenHash) -> Option<TokenStanding> {
    let token = view.token(&TokenId::new(*hash.as_bytes()))?;
    Some(TokenStanding {
        hash: *hash,
        agent: token.agent.clone(),
        not_before: token.not_before,
        expires: token.expires,
        bound: token.bound.map(|(key, instance)| TokenUse {
            key,
            instance,
            at: used_at(view, token, instance),
        }),
    })
}

/// When a token was used: when the instance it made began. A former instance is too long ago for a retry anyway.
fn used_at(view: &View, token: &TokenRecord, instance: AgentInstance) -> UnixTime {
    match view.agent(&token.agent) {
        Some(agent) if agent.instance == instance => agent.joined_at,
        _ => token.created_at,
    }
}
