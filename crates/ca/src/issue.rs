//! An issuance, from an agent's ask to a released certificate, on one screen.
//!
//! ```text
//! Ask -> attest: who speaks            Attested      (checked anew for every batch)
//!     -> policy: may it have this      Grant         (carries the control index it was decided at)
//!     -> mint:   prepare and lint      Prepared
//!     -> mint:   sign                  Sealed        (bytes that only the ledger may read)
//!     -> ledger: append durably        Receipt
//!     -> mint:   release               Issued        (consumes the Receipt of exactly this record)
//! ```
//!
//! When a restricting record came between the decision and the append, the ledger answers Moved and the ask is decided
//! again on the newer state. Nothing here answers a caller before the record is durable and applied.

use std::sync::Arc;

use mintage_attest::{AgentSession, Attested};
use mintage_identity::{RequestId, Serial, UnixTime};
use mintage_ledger::{Actor, CommitError, EncodedRecord};
use mintage_mint::{AwaitingReceipt, Issued, Prepared, ProvenKey, RecordContext, Sealed, prepare, prove_possession};
use mintage_policy::{Floor, Grant, IssuancePolicy, Want, check_holders, check_key_for, decide};
use mintage_state::View;
use tonic::Code;

use crate::{
    desk::Desk,
    drawn::Drawn,
    inflight::{Claim, Conflict, Request, Reservation},
    limits::{DECIDE_ROUNDS_MAX, SERIAL_DRAWS_MAX},
    replay::{Answer, recorded_answer},
    standing,
    status::Refusal,
};

/// A serial and a salt.
pub(crate) const RANDOM_OCTETS_PER_ASK: usize = 32;

/// One ask of an agent.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) request_id: RequestId,
    pub(crate) want: Want,
    pub(crate) csr: Vec<u8>,
}

/// How the asking agent is proven.
#[derive(Clone, Debug)]
pub(crate) enum Speaker {
    /// By its channel; proven anew for each decision.
    Session(Arc<AgentSession>),
    /// Just now: by a token, or by the key of the certificate with this serial.
    Proven(Arc<Attested>, Option<Serial>),
}

/// An ask whose certificate is signed and waits to be recorded.
struct Signed {
    awaiting: AwaitingReceipt,
    record: EncodedRecord,
    /// Control index of the decision.
    seen: u64,
    reservation: Reservation,
}

/// What became of an ask in one round.
enum Round {
    Signed(Box<Signed>),
    /// A lost reply asked for again.
    Recorded(Answer),
    Refused(Refusal),
}

impl<E: Into<Refusal>> From<E> for Round {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Issues what the speaker asks for; one answer for each ask, in order.
pub(crate) async fn issue(desk: &Arc<Desk>, speaker: &Speaker, asks: &Arc<Vec<Ask>>) -> Vec<Result<Answer, Refusal>> {
    let mut answers: Vec<Option<Result<Answer, Refusal>>> = asks.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..asks.len()).collect();
    let mut held = Vec::new();
    for _ in 0..DECIDE_ROUNDS_MAX {
        if open.is_empty() {
            break;
        }
        let rounds = decide_and_sign(desk, speaker, asks, &open).await;
        open = commit(desk, rounds, open, &mut answers, &mut held).await;
    }
    let busy = || {
        Err(Refusal::unavailable(
            "moved",
            "the state kept changing under this decision; ask again",
        ))
    };
    for at in open {
        answers[at] = Some(busy());
    }
    // Applied before answered: the next ask, on whatever stream, sees this one. Only then are serial and key given back.
    let last = held.iter().map(|(index, _)| *index).max();
    let applied = desk.wait_applied(last).await;
    give_back(desk, last, held, applied.is_ok());
    let unanswered = || Err(Refusal::bug("an ask was left without an answer"));
    let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered));
    match applied {
        Ok(()) => answers.collect(),
        Err(refusal) => answers
            .map(|answer| answer.and_then(|_| Err(refusal.clone())))
            .collect(),
    }
}

/// Gives serials and keys back once the index holds their records. Where it is slow the callers are sent away, but what
/// they asked for stays taken: the records are durable, and whoever came next with one of these keys would find it free.
fn give_back(desk: &Arc<Desk>, last: Option<u64>, held: Vec<(u64, Reservation)>, applied: bool) {
    let Some(last) = last.filter(|_| !applied) else { return };
    let desk = desk.clone();
    tokio::spawn(async move {
        match desk.index.wait_applied(last).await {
            Some(()) => drop(held),
            // An index that follows no longer never learns of them: they stay taken for as long as this process lives.
            None => std::mem::forget(held),
        }
    });
}

/// The part that costs CPU, off the event loop; how many batches at once is limited.
async fn decide_and_sign(desk: &Arc<Desk>, speaker: &Speaker, asks: &Arc<Vec<Ask>>, open: &[usize]) -> Vec<Round> {
    let _turn = {
        let _queued = desk.commits.more_to_come();
        // The semaphore is never closed; were it, signing would go on without the limit.
        desk.signing.acquire().await.ok()
    };
    let work = {
        let (desk, speaker, asks, open) = (desk.clone(), speaker.clone(), asks.clone(), open.to_vec());
        move || batch(&desk, &speaker, open.iter().map(|at| &asks[*at]))
    };
    let lost = |_| {
        let refuse = || Round::Refused(Refusal::bug("the signing task ended before its answer"));
        open.iter().map(|_| refuse()).collect()
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(lost)
}

/// What a whole batch has in common: one state, one time, one proof of who speaks.
struct Occasion {
    view: Arc<View>,
    policy: Arc<IssuancePolicy>,
    now: UnixTime,
    attested: Arc<Attested>,
    actor: Actor,
    drawn: Drawn,
}

fn batch<'a>(desk: &Desk, speaker: &Speaker, asks: impl ExactSizeIterator<Item = &'a Ask>) -> Vec<Round> {
    let occasion = || {
        let (view, now) = (desk.state.view(), desk.clock.now()?);
        let attested = prove(speaker, &view, now)?;
        Ok(Occasion {
            policy: desk.policy(),
            actor: actor_of(speaker, &attested),
            drawn: Drawn::new(desk.random_source, asks.len() * RANDOM_OCTETS_PER_ASK),
            view,
            now,
            attested,
        })
    };
    let mut occasion = match occasion() {
        Ok(occasion) => occasion,
        Err(refusal) => return asks.map(|_| Round::Refused(Refusal::clone(&refusal))).collect(),
    };
    // Stage by stage over the whole batch and not ask by ask: each stage finds its code and its tables in the cache.
    let asks: Vec<&Ask> = asks.collect();
    let proven: Vec<_> = asks.iter().map(|ask| entitle(desk, &occasion, ask)).collect();
    let cleared: Vec<_> = proven
        .into_iter()
        .zip(&asks)
        .map(|(proven, ask)| proven.and_then(|(grant, key)| clear(desk, &mut occasion, ask, grant, key)))
        .collect();
    let prepared: Vec<_> = cleared
        .into_iter()
        .map(|cleared| cleared.and_then(|cleared| make_ready(desk, &occasion, cleared)))
        .collect();
    let sealed: Vec<_> = prepared
        .into_iter()
        .map(|ready| ready.and_then(|(prepared, reservation)| Ok((prepared.sign(&desk.issuer)?, reservation))))
        .collect();
    let with_asks = sealed.into_iter().zip(asks);
    with_asks
        .map(|(sealed, ask)| {
            sealed.and_then(|(sealed, reservation)| record(desk, &mut occasion, ask, sealed, reservation))
        })
        .map(|round| round.unwrap_or_else(|end| end))
        .collect()
}

/// May it have this, and does it hold the key?
fn entitle(desk: &Desk, occasion: &Occasion, ask: &Ask) -> Result<(Grant, ProvenKey), Round> {
    let Occasion {
        view,
        policy,
        now,
        attested,
        ..
    } = occasion;
    let grant = decide(attested, &ask.want, &**view, *now, policy)?;
    let key = prove_possession(&ask.csr, &desk.key_policy)?;
    // A barred key ends here: the revoked set speaks of every certificate on it, so no serial would do for one.
    check_key_for(grant.spiffe_id(), &key.spki_sha256(), &**view, [])?;
    Ok((grant, key))
}

/// May the key carry it? A lost reply that is asked for again ends here.
///
/// Serial, key and request are taken before the index is read. A reservation is given back only when the index holds its record,
/// so whoever used this key before is found either in flight or in the index. The other way round, another stream could
/// take the key, record it and give it back between the two.
fn clear(
    desk: &Desk,
    occasion: &mut Occasion,
    ask: &Ask,
    grant: Grant,
    key: ProvenKey,
) -> Result<(Grant, ProvenKey, Reservation), Round> {
    let Occasion {
        view,
        policy,
        now,
        attested,
        drawn,
        ..
    } = occasion;
    let request = desk.in_flight.request(attested.name(), &ask.request_id);
    let reservation = reserve(desk, (view, policy, *now), &key, &grant, Some(request), drawn);
    // Told even where the key is taken: by the same ask on another stream, whose answer stands already.
    if let Some(answer) = recorded_answer(desk, attested.name(), &ask.request_id, &key, *now)? {
        return Err(Round::Recorded(answer));
    }
    let reservation = reservation?;
    let holders = desk.index.holders_of(&key.spki_sha256(), *now).map_err(Refusal::from)?;
    check_holders(&grant, &key.spki_sha256(), &holders, policy)?;
    Ok((grant, key, reservation))
}

/// The linted certificate.
fn make_ready(
    desk: &Desk,
    occasion: &Occasion,
    (grant, key, reservation): (Grant, ProvenKey, Reservation),
) -> Result<(Prepared, Reservation), Round> {
    let prepared = prepare(grant, key, *reservation.serial(), occasion.now, &desk.issuer)?;
    Ok((prepared, reservation))
}

/// The record of a signed certificate, which waits for its receipt.
fn record(
    desk: &Desk,
    occasion: &mut Occasion,
    ask: &Ask,
    sealed: Sealed,
    reservation: Reservation,
) -> Result<Round, Round> {
    let seen = sealed.decided_at();
    let (awaiting, record) = sealed.seal(RecordContext {
        actor: occasion.actor.clone(),
        request_id: Some(ask.request_id),
        replica: desk.replica.clone(),
        time: occasion.now,
        salt: occasion.drawn.next()?,
    })?;
    Ok(Round::Signed(Box::new(Signed {
        awaiting,
        record,
        seen,
        reservation,
    })))
}

pub(crate) fn prove(speaker: &Speaker, view: &View, now: UnixTime) -> Result<Arc<Attested>, Refusal> {
    match speaker {
        Speaker::Proven(attested, _) => Ok(attested.clone()),
        Speaker::Session(session) => Ok(Arc::new(standing::prove(view, session, now)?)),
    }
}

pub(crate) fn actor_of(speaker: &Speaker, attested: &Attested) -> Actor {
    let serial = match speaker {
        Speaker::Session(session) => Some(session.serial),
        Speaker::Proven(_, shown) => *shown,
    };
    Actor::Agent {
        id: attested.agent().clone(),
        instance: attested.instance(),
        serial,
    }
}

/// Refuses while the issuing key is revoked as a whole.
///
/// # Errors
/// `issuer-revoked`.
pub(crate) fn check_issuer(desk: &Desk, view: &View) -> Result<(), Refusal> {
    if view.issuer_floor(&desk.issuer.key_id()) != Floor::Blocked {
        return Ok(());
    }
    let text = "the issuing key of this CA was revoked, and nothing is issued below it any more; make another one with \
                `mintage-ca restore` from a copy of the stopped CA's data directory";
    Err(Refusal::new(Code::FailedPrecondition, "issuer-revoked", text))
}

/// Draws a serial that no live certificate has, that the revoked set does not speak of, and that nobody is using now.
pub(crate) fn reserve(
    desk: &Desk,
    (view, policy, now): (&View, &IssuancePolicy, UnixTime),
    key: &ProvenKey,
    grant: &Grant,
    request: Option<Request>,
    drawn: &mut Drawn,
) -> Result<Reservation, Refusal> {
    let spki = key.spki_sha256();
    // No serial is good below an issuer that is not: drawing another would blame the random source.
    check_issuer(desk, view)?;
    for _ in 0..SERIAL_DRAWS_MAX {
        let serial = Serial::from_random(drawn.next()?);
        if desk.index.is_live(&serial, now) || desk.is_struck(view, grant, &serial, &spki, now) {
            continue;
        }
        let claim = Claim {
            serial,
            key: spki,
            request,
        };
        match desk.in_flight.reserve(claim, grant.spiffe_id(), policy.rotate_keys) {
            Ok(reservation) => return Ok(reservation),
            Err(Conflict::Serial) => {}
            Err(Conflict::Busy) => {
                let text = "a certificate for this public key is being issued right now; ask again in a moment";
                return Err(Refusal::unavailable("key-in-flight", text));
            }
            Err(Conflict::Request) => {
                let text = "this request is being answered right now; ask again in a moment";
                return Err(Refusal::unavailable("request-in-flight", text));
            }
            Err(Conflict::Key(holder)) => {
                let text = format!("this public key is being issued under {holder}; make a new one");
                return Err(Refusal::new(Code::PermissionDenied, "key-under-other-id", text));
            }
        }
    }
    Err(Refusal::unavailable(
        "serials",
        "the random source repeats itself; nothing is issued",
    ))
}

/// Hands the signed records to the ledger and releases what became durable; what must be decided again comes back.
async fn commit(
    desk: &Arc<Desk>,
    rounds: Vec<Round>,
    asks: Vec<usize>,
    answers: &mut [Option<Result<Answer, Refusal>>],
    held: &mut Vec<(u64, Reservation)>,
) -> Vec<usize> {
    let mut waiting = Vec::with_capacity(rounds.len());
    let mut records = Vec::with_capacity(rounds.len());
    for (round, at) in rounds.into_iter().zip(asks) {
        match round {
            Round::Recorded(answer) => answers[at] = Some(Ok(answer)),
            Round::Refused(refusal) => answers[at] = Some(Err(refusal)),
            Round::Signed(signed) => {
                let Signed {
                    awaiting,
                    record,
                    seen,
                    reservation,
                } = *signed;
                records.push((record, seen));
                waiting.push((at, awaiting, reservation));
            }
        }
    }
    if records.is_empty() {
        return Vec::new();
    }
    let outcomes = desk.commits.submit(records).outcomes().await;
    let mut again = Vec::new();
    let mut control = 0;
    for (outcome, (at, awaiting, reservation)) in outcomes.into_iter().zip(waiting) {
        match outcome {
            Ok(receipt) => {
                held.push((receipt.position(), reservation));
                let released = awaiting.release(receipt).map(|issued| answer_of(desk, issued));
                answers[at] = Some(released.map_err(Refusal::from));
            }
            Err(CommitError::Moved { control_head }) => {
                control = control_head.max(control);
                again.push(at);
            }
            Err(error) => answers[at] = Some(Err(error.into())),
        }
    }
    if !again.is_empty() && desk.state.wait_applied(control.saturating_sub(1)).await.is_err() {
        for at in again.drain(..) {
            answers[at] = Some(Err(Refusal::unavailable(
                "state",
                "the state follows the ledger no longer",
            )));
        }
    }
    again
}

fn answer_of(desk: &Desk, issued: Issued) -> Answer {
    desk.metrics.issued(issued.profile().as_str());
    Answer {
        origin: issued.receipt().origin().as_str().to_owned(),
        index: issued.receipt().leaf_index(),
        leaf_hash: issued.receipt().leaf_hash(),
        leaf: issued.into_leaf_der(),
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::{EntryName, RevocationReason};
    use mintage_state::command::Scope;

    use super::*;
    use crate::{
        revoke::{Order, carry_out},
        trial::{Trial, csr},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn after_the_last_issuer_was_revoked_an_ask_is_told_so() {
        let trial = Trial::open().await;
        let desk = &trial.desk;
        trial.entries(["web"]).await;
        let agent = trial.agent("n1").await;
        let view = desk.state.view();
        let attested = standing::prove(&view, &agent, desk.clock.now().unwrap()).unwrap();
        let scope = Scope::Issuer(desk.issuer.key_id());
        let mut order = Order::new(scope, RevocationReason::CaCompromise, "");
        order.force_last = true;
        carry_out(desk, &trial.origin(), &order, false).await.unwrap();
        let asks = vec![Ask {
            request_id: RequestId::from_slice(&[7; 16]).unwrap(),
            want: Want::Entry(EntryName::parse("web").unwrap()),
            csr: csr(),
        }];
        let speaker = Speaker::Proven(Arc::new(attested), None);
        let refused = issue(desk, &speaker, &Arc::new(asks)).await.pop().unwrap().unwrap_err();
        assert_eq!((refused.code, refused.retry), ("issuer-revoked", false), "{refused}");
        assert!(refused.message.contains("mintage-ca restore"));
    }
}
