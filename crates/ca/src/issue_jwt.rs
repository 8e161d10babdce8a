//! The issuance of JWT-SVIDs, on the road of certificates (see `issue.rs`): decided, prepared, signed, recorded, released. A
//! token is not in the ledger, so a lost reply is answered by another token and another record.

use std::sync::Arc;

use mintage_identity::{Audiences, EntryName, RequestId};
use mintage_ledger::{CommitError, EncodedRecord};
use mintage_mint::{AwaitingJwt, IssuedJwt, RecordContext, prepare_jwt};
use mintage_policy::decide_jwt;

use crate::{
    desk::Desk,
    issue::{Speaker, actor_of, prove},
    limits::DECIDE_ROUNDS_MAX,
    status::Refusal,
};

/// One ask of an agent.
#[derive(Debug)]
pub(crate) struct JwtAsk {
    pub(crate) request_id: RequestId,
    pub(crate) entry: EntryName,
    pub(crate) audiences: Audiences,
}

/// A token that is signed and waits to be recorded.
struct Signed {
    awaiting: AwaitingJwt,
    record: EncodedRecord,
    /// Control index of the decision.
    seen: u64,
}

type Outcome = Result<IssuedJwt, Refusal>;

/// Issues what the speaker asks for; one answer for each ask, in order.
pub(crate) async fn issue_jwts(desk: &Arc<Desk>, speaker: &Speaker, asks: &Arc<Vec<JwtAsk>>) -> Vec<Outcome> {
    let mut answers: Vec<Option<Outcome>> = asks.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..asks.len()).collect();
    for _ in 0..DECIDE_ROUNDS_MAX {
        if open.is_empty() {
            break;
        }
        let signed = decide_and_sign(desk, speaker, asks, &open).await;
        open = commit(desk, signed, open, &mut answers).await;
    }
    // Applied before answered, as certificates are: whoever holds the token finds its record.
    let last = answers
        .iter()
        .flatten()
        .flatten()
        .map(|issued| issued.receipt().position())
        .max();
    if let Err(refusal) = desk.wait_applied(last).await {
        let slow = |answer: Option<Outcome>| Some(answer?.and_then(|_| Err(refusal.clone())));
        answers = answers.into_iter().map(slow).collect();
    }
    let busy = || Refusal::unavailable("moved", "the state kept changing under this decision; ask again");
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Err(busy())))
        .collect()
}

/// The part that costs CPU, off the event loop; how many batches at once is limited.
async fn decide_and_sign(
    desk: &Arc<Desk>,
    speaker: &Speaker,
    asks: &Arc<Vec<JwtAsk>>,
    open: &[usize],
) -> Vec<Result<Signed, Refusal>> {
    // The semaphore is never closed; were it, signing would go on without the limit.
    let _turn = desk.signing.acquire().await.ok();
    let work = {
        let (desk, speaker, asks, open) = (desk.clone(), speaker.clone(), asks.clone(), open.to_vec());
        move || batch(&desk, &speaker, open.iter().map(|at| &asks[*at]))
    };
    let lost = || Err(Refusal::bug("the signing task ended before its answer"));
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| open.iter().map(|_| lost()).collect())
}

fn batch<'a>(desk: &Desk, speaker: &Speaker, asks: impl Iterator<Item = &'a JwtAsk>) -> Vec<Result<Signed, Refusal>> {
    let occasion = || {
        let (view, now) = (desk.state.view(), desk.clock.now()?);
        let attested = prove(speaker, &view, now)?;
        let signer = desk.jwt_keys.current(&view)?;
        Ok((view, now, attested, signer))
    };
    let (view, now, attested, signer) = match occasion() {
        Ok(occasion) => occasion,
        Err(refusal) => return asks.map(|_| Err(Refusal::clone(&refusal))).collect(),
    };
    let policy = desk.policy();
    let one = |ask: &JwtAsk| {
        let grant = decide_jwt(&attested, &ask.entry, ask.audiences.clone(), &*view, now, &policy)?;
        let sealed = prepare_jwt(grant, &desk.random()?, now, &signer)?.sign(&signer)?;
        let seen = sealed.decided_at();
        let (awaiting, record) = sealed.seal(RecordContext {
            actor: actor_of(speaker, &attested),
            request_id: Some(ask.request_id),
            replica: desk.replica.clone(),
            time: now,
            salt: desk.random()?,
        })?;
        Ok(Signed { awaiting, record, seen })
    };
    asks.map(one).collect()
}

/// Hands the signed records to the ledger and releases what became durable; what must be decided again comes back.
async fn commit(
    desk: &Arc<Desk>,
    signed: Vec<Result<Signed, Refusal>>,
    asks: Vec<usize>,
    answers: &mut [Option<Outcome>],
) -> Vec<usize> {
    let (mut waiting, mut records) = (Vec::new(), Vec::new());
    for (signed, at) in signed.into_iter().zip(asks) {
        match signed {
            Ok(signed) => {
                records.push((signed.record, signed.seen));
                waiting.push((at, signed.awaiting));
            }
            Err(refusal) => answers[at] = Some(Err(refusal)),
        }
    }
    if records.is_empty() {
        return Vec::new();
    }
    let outcomes = desk.commits.submit(records).outcomes().await;
    let (mut again, mut control) = (Vec::new(), 0);
    for (outcome, (at, awaiting)) in outcomes.into_iter().zip(waiting) {
        answers[at] = match outcome {
            Ok(receipt) => {
                desk.metrics.issued("jwt");
                Some(awaiting.release(receipt).map_err(Refusal::from))
            }
            Err(CommitError::Moved { control_head }) => {
                control = control_head.max(control);
                again.push(at);
                None
            }
            Err(error) => Some(Err(error.into())),
        };
    }
    if !again.is_empty() && desk.state.wait_applied(control.saturating_sub(1)).await.is_err() {
        for at in again.drain(..) {
            let gone = Refusal::unavailable("state", "the state follows the ledger no longer");
            answers[at] = Some(Err(gone));
        }
    }
    again
}
