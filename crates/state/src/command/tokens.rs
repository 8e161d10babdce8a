//! Join tokens: made by an operator, used once by a node.

use std::time::Duration;

use mintage_identity::{AgentName, SpiffeId, SpkiHash, UnixTime};
use mintage_ledger::{Body, wire};

use crate::command::{Refusal, within};
use crate::limits::{AGENTS_MAX, TOKEN_LIFE_MAX, TOKEN_LIFE_MIN, TOKENS_MAX};
use crate::model::TokenId;
use crate::view::View;

/// Hexadecimal digits of a token's id that are needed at least to name it.
const PREFIX_DIGITS_MIN: usize = 8;

/// The use of a token by a node that proved to hold it and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUse<'a> {
    /// The token.
    pub token: TokenId,
    /// Hash of the key it is bound to from now on.
    pub spki: SpkiHash,
    /// How it was attested, such as `join_token`.
    pub kind: &'a str,
    /// SHA-256 over what was presented.
    pub evidence: [u8; 32],
}

/// Drafts a token for `agent` that begins at `not_before` (now, when none is named) and lives for `life` from then.
///
/// # Errors
/// A life out of range, an id that exists, too many tokens.
pub fn create_token(
    view: &View,
    id: TokenId,
    agent: &AgentName,
    life: Duration,
    not_before: Option<UnixTime>,
    now: UnixTime,
) -> Result<Body, Refusal> {
    if life < TOKEN_LIFE_MIN || life > TOKEN_LIFE_MAX {
        return Err(Refusal::TokenLife {
            asked_seconds: life.as_secs(),
            min_seconds: TOKEN_LIFE_MIN.as_secs(),
            max_seconds: TOKEN_LIFE_MAX.as_secs(),
        });
    }
    if view.token(&id).is_some() {
        return Err(Refusal::TokenExists);
    }
    // Those that have ended are swept away by the records of later ones, so they do not count.
    let open = view.tokens().filter(|(_, token)| token.expires > now).count();
    within(
        "join tokens",
        open + 1,
        TOKENS_MAX,
        "delete some with `mintage token delete`",
    )?;
    let begin = not_before.unwrap_or(now);
    Ok(Body::TokenCreate(wire::TokenCreate {
        token_hash: id.as_bytes().to_vec(),
        agent: agent.to_string(),
        expires_ms: begin.plus(life).millis(),
        not_before_ms: begin.millis(),
    }))
}

/// Drafts the withdrawal of a token, used or not.
///
/// # Errors
/// A token that does not exist.
pub fn delete_token(view: &View, id: &TokenId) -> Result<Body, Refusal> {
    let token = view.token(id).ok_or(Refusal::NoToken)?;
    let agent = token.agent.to_string();
    Ok(Body::TokenDelete(wire::TokenDelete {
        token_hash: id.as_bytes().to_vec(),
        agent,
    }))
}

/// The token whose id begins with these hexadecimal digits, eight at least.
///
/// # Errors
/// No such token, or several.
pub fn token_by_prefix(view: &View, digits: &str) -> Result<TokenId, Refusal> {
    if digits.len() < PREFIX_DIGITS_MIN || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Refusal::NoToken);
    }
    let digits = digits.to_ascii_lowercase();
    let mut fitting = view
        .tokens()
        .map(|(id, _)| *id)
        .filter(|id| id.to_string().starts_with(&digits));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Refusal::NoToken),
        _ => Err(Refusal::AmbiguousToken(digits)),
    }
}

/// Drafts the use of a token: one record that consumes it and attests its agent. The index it gets is the new instance.
/// Who holds the token, and when it ends, was verified before.
///
/// # Errors
/// A token that does not exist or was used, and too many agents.
pub fn consume_token(view: &View, used: &TokenUse<'_>) -> Result<Body, Refusal> {
    let token = view.token(&used.token).ok_or(Refusal::NoToken)?;
    if token.bound.is_some() {
        return Err(Refusal::TokenUsed);
    }
    let new = usize::from(view.agent(&token.agent).is_none());
    within(
        "agents",
        view.agent_count() + new,
        AGENTS_MAX,
        "join nodes under names that exist",
    )?;
    Ok(Body::TokenConsume(wire::TokenConsume {
        token_hash: used.token.as_bytes().to_vec(),
        attest: Some(wire::AgentAttest {
            name: token.agent.to_string(),
            spiffe_id: SpiffeId::agent(view.domain(), &token.agent).to_string(),
            instance_of: 0,
            kind: used.kind.to_owned(),
            evidence_sha256: used.evidence.to_vec(),
            spki_sha256: used.spki.as_bytes().to_vec(),
            rejoin: false,
        }),
    }))
}
