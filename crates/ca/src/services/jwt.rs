//! The asks for JWT-SVIDs in a `Mint` message: each gets a token or a refusal, under its own request id.

use std::sync::Arc;

use mintage_attest::AgentSession;
use mintage_identity::{Audiences, EntryName, RequestId};
use mintage_mint::IssuedJwt;
use mintage_policy::Want;
use mintage_proto::{
    request_id,
    v1::{self, JwtResult},
};

use super::sync::wire_refusal;
use crate::{
    denials::{self, Asked},
    desk::Desk,
    issue::Speaker,
    issue_jwt::{JwtAsk, issue_jwts},
    status::Refusal,
};

/// Answers them, in order.
pub(super) async fn answer(desk: &Arc<Desk>, session: &Arc<AgentSession>, sent: Vec<v1::JwtAsk>) -> Vec<JwtResult> {
    let parsed: Vec<Result<JwtAsk, Refusal>> = sent.iter().map(parse).collect();
    let (mut asks, mut refused) = (Vec::new(), Vec::with_capacity(sent.len()));
    for ask in parsed {
        refused.push(ask.map(|ask| asks.push(ask)).err());
    }
    let asks = Arc::new(asks);
    let answers = issue_jwts(desk, &Speaker::Session(session.clone()), &asks).await;
    let mut answers = answers.into_iter();
    let results = sent.into_iter().zip(refused).map(|(ask, refused)| {
        let outcome = match refused {
            Some(refusal) => Err(refusal),
            None => answers
                .next()
                .unwrap_or_else(|| Err(Refusal::bug("an ask was left without an answer"))),
        };
        match outcome {
            Ok(issued) => granted(ask.request_id, &issued),
            Err(refusal) => denied(desk, session, ask, refusal),
        }
    });
    results.collect()
}

fn parse(ask: &v1::JwtAsk) -> Result<JwtAsk, Refusal> {
    let wrong = |error: mintage_identity::NameError| Refusal::invalid(error.to_string());
    Ok(JwtAsk {
        request_id: request_id("request_id", &ask.request_id)?,
        entry: EntryName::parse(&ask.entry).map_err(wrong)?,
        audiences: Audiences::parse(&ask.audiences).map_err(wrong)?,
    })
}

fn granted(request_id: Vec<u8>, issued: &IssuedJwt) -> JwtResult {
    let receipt = issued.receipt();
    JwtResult {
        request_id,
        token: issued.token().to_owned(),
        expires_s: issued.expires().seconds(),
        receipt: Some(v1::Receipt {
            origin: receipt.origin().as_str().to_owned(),
            index: receipt.leaf_index(),
            leaf_hash: receipt.leaf_hash().as_bytes().to_vec(),
        }),
        refusal: None,
    }
}

fn denied(desk: &Desk, session: &AgentSession, ask: v1::JwtAsk, refusal: Refusal) -> JwtResult {
    let want = EntryName::parse(&ask.entry).ok().map(Want::Entry);
    // Of an ask that cannot be read, the id may still be one.
    let asked = Asked {
        request_id: RequestId::from_slice(&ask.request_id).ok(),
        want: want.as_ref(),
    };
    denials::record(desk, session, &asked, &refusal);
    JwtResult {
        request_id: ask.request_id,
        refusal: Some(wire_refusal(refusal)),
        ..JwtResult::default()
    }
}
