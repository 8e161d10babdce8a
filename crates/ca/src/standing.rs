//! What the state says about an agent or a token, in the words of the attestation rules.

use mintage_attest::{
    AgentSession, AttestError, Attested, TokenHash,
    channel::{AgentCertificate, AgentStanding, verify_session},
    join_token::{TokenStanding, TokenUse},
};
use mintage_identity::{AgentInstance, Reserved, SpiffeId, UnixTime};
use mintage_policy::AgentStatus;
use mintage_revocation::{Query, Verdict};
use mintage_state::{TokenId, TokenRecord, View};

use crate::trust::verdict;

/// What a session proves at `now`, by what this view says of its agent and of its certificate.
///
/// # Errors
/// Those of [`verify_session`], and a certificate that was revoked, whether anybody else has been told of it yet or not.
pub(crate) fn prove(view: &View, session: &AgentSession, now: UnixTime) -> Result<Attested, AttestError> {
    let attested = verify_session(session, of_agent(view, &session.id).as_ref(), now)?;
    let query = Query {
        issuer: session.issuer,
        serial: &session.serial,
        not_before: session.not_before,
        not_after: session.not_after,
        spiffe_id: Some(&session.id),
        spki_sha256: session.spki,
    };
    match verdict(view.revoked(), &query) {
        Verdict::Revoked { why } => Err(AttestError::session_revoked(session, why.as_str())),
        // An issuer that is not covered is no issuer of ours any more: the handshake's to refuse.
        _ => Ok(attested),
    }
}

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

#[cfg(test)]
mod tests {
    use mintage_identity::RevocationReason;
    use mintage_state::command::Scope;

    use crate::{
        revoke::{Order, carry_out},
        services::sync::check,
        trial::Trial,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn an_agent_whose_certificate_was_revoked_may_say_nothing_more_though_nobody_was_told_yet() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        let (serial, id, key, other) = tokio::join!(
            trial.agent("serial"),
            trial.agent("id"),
            trial.agent("key"),
            trial.agent("other")
        );
        let struck = [
            (&serial, Scope::Serial(serial.serial)),
            (&id, Scope::Identity(id.id.clone())),
            (&key, Scope::Key(key.spki)),
        ];
        for (session, scope) in struck {
            assert!(check(desk, session).is_ok());
            let order = Order::new(scope, RevocationReason::Superseded, "");
            carry_out(desk, &trial.origin(), &order, false).await.unwrap();
            let refused = check(desk, session).unwrap_err();
            assert_eq!(refused.code, "session_revoked");
        }
        // Nothing is published here: what stands in the records is enough.
        assert!(desk.is_unpublished());
        assert!(check(desk, &other).is_ok());
    }
}
