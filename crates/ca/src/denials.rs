//! Refusals of authenticated callers become ledger records, at most one per caller and code each interval; the rest are
//! counted into the next one, so that a noisy caller cannot fill the ledger. Counts whose next one does not come are recorded by
//! themselves, and what the ledger did not take is counted again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintage_attest::AgentSession;
use mintage_identity::{RequestId, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Attestation, Body, wire::Deny};
use mintage_policy::Want;
use mintage_state::View;
use mintage_verifier::VerifiedPeer;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{error, field::display, warn};

use crate::{
    control::{Origin, submit_note},
    desk::Desk,
    limits::{DENY_CALLERS_MAX, DENY_RECORD_INTERVAL, DENY_RECORDS_AT_STOP_MAX, DENY_SWEEP_INTERVAL},
    sparse::Sparse,
    standing,
    status::Refusal,
};

/// Who was refused, by which code.
type Cause = (SpiffeId, &'static str);

/// The code of records that count refusals of callers for whom there is no room.
const OTHERS_CODE: &str = "other-callers";

/// Remembers when each caller's refusal of each code was last recorded.
#[derive(Clone, Debug)]
pub(crate) struct Denials(Arc<Mutex<Sparse<Cause>>>);

impl Default for Denials {
    fn default() -> Self {
        let told = Sparse::new(DENY_RECORD_INTERVAL, DENY_CALLERS_MAX);
        Self(Arc::new(Mutex::new(told)))
    }
}

/// Refusals that no record tells yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counted {
    /// `None`: of callers for whom there is no room.
    cause: Option<Cause>,
    count: u64,
}

impl Counted {
    fn body(&self) -> Body {
        let (code, why) = match &self.cause {
            Some((caller, code)) => (
                *code,
                format!("{caller} was refused again; counted and not recorded each"),
            ),
            None => (
                OTHERS_CODE,
                "more callers were refused than are told apart; counted together and not recorded each".to_owned(),
            ),
        };
        Body::Deny(Deny {
            code: code.to_owned(),
            why,
            // The record itself stands for one of them.
            suppressed: self.count - 1,
            ..Deny::default()
        })
    }
}

impl Denials {
    fn told(&self) -> MutexGuard<'_, Sparse<Cause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal. `Some(n)`: write a record, `n` refusals were suppressed since the last. `None`: do not.
    pub(crate) fn note(&self, caller: &SpiffeId, code: &'static str, now: UnixTime) -> Option<u64> {
        self.told().note(&(caller.clone(), code), 1, now)
    }

    /// Takes the counts that no record has told yet, as the last records before a stop: at most as many as one group holds.
    pub(crate) fn unrecorded(&self) -> Vec<Body> {
        let mut told = self.told();
        let counted = |(cause, count): (&Cause, u64)| Counted {
            cause: Some(cause.clone()),
            count,
        };
        let mut last: Vec<Counted> = told.counted().map(counted).collect();
        let rest = last.split_off(last.len().min(DENY_RECORDS_AT_STOP_MAX - 1));
        let others = told.others() + rest.iter().map(|counted| counted.count).sum::<u64>();
        last.extend(others_of(others));
        last.iter().map(Counted::body).collect()
    }

    /// Takes the counts whose callers were not told of in a while.
    fn due(&self, now: UnixTime) -> Vec<Counted> {
        let mut told = self.told();
        let counted = |(cause, count)| Counted {
            cause: Some(cause),
            count,
        };
        let mut due: Vec<Counted> = told.due(now).into_iter().map(counted).collect();
        due.extend(others_of(told.others()));
        due
    }

    /// Counts again what the ledger did not take.
    fn give_back(&self, counted: &Counted) {
        let mut told = self.told();
        match &counted.cause {
            Some(cause) => told.give_back(cause, counted.count),
            None => told.give_back_others(counted.count),
        }
    }
}

fn others_of(count: u64) -> Option<Counted> {
    (count > 0).then_some(Counted { cause: None, count })
}

/// Records now and then what was counted of callers that have fallen silent, until told to stop.
pub(crate) async fn keep(desk: Arc<Desk>, stop: CancellationToken) {
    let mut sweep = tokio::time::interval(DENY_SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = sweep.tick() => record_counted(&desk, desk.clock.unguarded()),
            () = stop.cancelled() => return,
        }
    }
}

fn record_counted(desk: &Desk, now: UnixTime) {
    for counted in desk.denials.due(now) {
        let body = counted.body();
        submit(desk, &Origin::replica(desk), body, counted);
    }
}

/// Records what stands for so many refusals, which are counted again when the ledger does not take it.
fn submit(desk: &Desk, origin: &Origin, body: Body, counted: Counted) {
    let Some(ticket) = submit_note(desk, origin, body) else {
        return desk.denials.give_back(&counted);
    };
    let denials = desk.denials.clone();
    tokio::spawn(async move {
        if ticket.outcomes().await.iter().any(Result::is_err) {
            denials.give_back(&counted);
        }
    });
}

/// What was refused, as far as it could be read.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) request_id: Option<RequestId>,
    pub(crate) want: Option<&'a Want>,
}

/// Counts a refused ask of an authenticated agent, and records it unless the same was recorded a moment ago.
pub(crate) fn record(desk: &Desk, session: &AgentSession, asked: &Asked<'_>, refusal: &Refusal) {
    desk.metrics.denied(refusal.code);
    if refusal.is_alarming() {
        desk.metrics.alarm(refusal.code);
    }
    // Faults of ours and of the moment are no decision about the caller.
    if refusal.retry || refusal.grpc == Code::Internal {
        return;
    }
    record_sparsely(desk, session, asked, refusal);
}

/// Records a call of an authenticated agent that its role does not allow; it asked for no certificate.
pub(crate) fn record_call(desk: &Desk, session: &AgentSession, refusal: &Refusal) {
    record_sparsely(desk, session, &Asked::default(), refusal);
}

/// Records a refused request of a caller who proved an identity by certificate and may be no agent: the CA tells of it.
pub(crate) fn record_reader(desk: &Desk, peer: &VerifiedPeer, refusal: &Refusal) {
    let Some(suppressed) = desk.denials.note(peer.id(), refusal.code, desk.clock.unguarded()) else {
        desk.metrics.suppressed_deny();
        return;
    };
    let (caller, serial, code) = (peer.id(), peer.serial(), refusal.code);
    warn!(%caller, %serial, code, why = %refusal.message.escape_debug(), "refused");
    let deny = Deny {
        spiffe_id: peer.id().to_string(),
        code: code.to_owned(),
        why: format!("{} (serial {serial})", refusal.message),
        suppressed,
        ..Deny::default()
    };
    let counted = Counted {
        cause: Some((peer.id().clone(), refusal.code)),
        count: suppressed + 1,
    };
    submit(desk, &Origin::replica(desk), Body::Deny(deny), counted);
}

fn record_sparsely(desk: &Desk, session: &AgentSession, asked: &Asked<'_>, refusal: &Refusal) {
    let Some(suppressed) = desk.denials.note(&session.id, refusal.code, desk.clock.unguarded()) else {
        desk.metrics.suppressed_deny();
        return;
    };
    tell(session, asked, refusal);
    let view = desk.state.view();
    let (spiffe_id, entry) = match asked.want {
        Some(Want::Entry(name)) => {
            let id = view.entry(name).map(|standing| standing.entry.spiffe_id().to_string());
            (id.unwrap_or_default(), name.to_string())
        }
        Some(Want::AgentItself) => (session.id.to_string(), String::new()),
        None => Default::default(),
    };
    let counted = Counted {
        cause: Some((session.id.clone(), refusal.code)),
        count: suppressed + 1,
    };
    let Some(standing) = standing::of_agent(&view, &session.id) else {
        return desk.denials.give_back(&counted);
    };
    let actor = Actor::Agent {
        id: session.id.clone(),
        instance: standing.instance,
        serial: Some(session.serial),
    };
    let deny = Deny {
        spiffe_id,
        entry,
        code: refusal.code.to_owned(),
        why: refusal.message.clone(),
        suppressed,
    };
    let origin = Origin {
        actor,
        attestation: attestation_of(desk, &view, session),
        request_id: asked.request_id,
    };
    submit(desk, &origin, Body::Deny(deny), counted);
}

/// What the session proves; `None` where it is refused because it proves nothing any more.
fn attestation_of(desk: &Desk, view: &View, session: &AgentSession) -> Option<Attestation> {
    let attested = standing::prove(view, session, desk.clock.unguarded()).ok()?;
    Some(Attestation {
        kind: attested.kind().to_owned(),
        evidence: *attested.evidence(),
        proven_at: attested.proven_at(),
    })
}

/// The log line, as rare as the record.
fn tell(session: &AgentSession, asked: &Asked<'_>, refusal: &Refusal) {
    let (agent, code, why) = (&session.id, refusal.code, refusal.message.escape_debug());
    let request_id = asked.request_id.map(display);
    match refusal.is_alarming() {
        true => error!(%agent, code, request_id, %why, "refused: somebody may use a key that is not theirs"),
        false => warn!(%agent, code, request_id, %why, "refused"),
    }
}

#[cfg(test)]
mod tests {
    use mintage_ledger::{Hit, Kind, Query, Record};

    use super::*;
    use crate::trial::Trial;

    #[test]
    fn one_record_each_interval_carries_the_count_of_the_others() {
        let denials = Denials::default();
        let caller = SpiffeId::parse("spiffe://td/mintage/agent/a").unwrap();
        let start = UnixTime::from_seconds(1000);
        assert_eq!(denials.note(&caller, "x", start), Some(0));
        for _ in 0..5 {
            assert_eq!(denials.note(&caller, "x", start), None);
        }
        assert_eq!(denials.note(&caller, "y", start), Some(0));
        assert_eq!(denials.note(&caller, "x", start.plus(DENY_RECORD_INTERVAL)), Some(5));
        assert_eq!(
            denials.note(&caller, "x", start.plus(DENY_RECORD_INTERVAL * 2)),
            Some(0)
        );
    }

    #[test]
    fn what_was_counted_is_told_once_at_a_stop() {
        let denials = Denials::default();
        let caller = SpiffeId::parse("spiffe://td/mintage/agent/a").unwrap();
        let start = UnixTime::from_seconds(1000);
        for _ in 0..6 {
            denials.note(&caller, "x", start);
        }
        denials.note(&caller, "y", start);
        let told = denials.unrecorded();
        let [Body::Deny(deny)] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            (deny.code.as_str(), deny.suppressed),
            ("x", 4),
            "five, one of which is the record"
        );
        assert!(deny.why.contains("/mintage/agent/a"));
        assert!(denials.unrecorded().is_empty());
    }

    #[test]
    fn a_stop_with_more_counts_than_records_tells_all_of_them() {
        let denials = Denials::default();
        let start = UnixTime::from_seconds(1000);
        let callers = DENY_RECORDS_AT_STOP_MAX + 7;
        for caller in 0..callers {
            let caller = SpiffeId::parse(&format!("spiffe://td/mintage/agent/a{caller}")).unwrap();
            denials.note(&caller, "x", start);
            denials.note(&caller, "x", start);
        }
        let told = denials.unrecorded();
        assert_eq!(told.len(), DENY_RECORDS_AT_STOP_MAX);
        let count = |body: &Body| match body {
            Body::Deny(deny) => 1 + deny.suppressed,
            _ => 0,
        };
        assert_eq!(told.iter().map(count).sum::<u64>(), callers as u64);
    }

    fn refuse(desk: &Desk, session: &AgentSession) {
        let refusal = Refusal::new(Code::PermissionDenied, "csr", "not like this");
        record(desk, session, &Asked::default(), &refusal);
    }

    /// The deny records of the ledger.
    fn recorded(desk: &Desk) -> Vec<(Record, Deny)> {
        let query = Query {
            kinds: vec![Kind::Deny],
            oldest_first: true,
            ..Query::default()
        };
        let found = desk.index.search().query(&query, None, 100).unwrap().rows;
        let read = |hit: &Hit| {
            let record = desk.journal.read_from(hit.index, 1).unwrap()[0].decode().unwrap();
            match record.body.clone() {
                Body::Deny(deny) => (record, deny),
                other => panic!("{other:?}"),
            }
        };
        found.iter().map(read).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn refusals_before_a_silence_are_recorded_all_the_same_and_with_the_attestation() {
        let trial = Trial::open().await;
        let (desk, agent) = (&trial.desk, trial.agent("n1").await);
        for _ in 0..1000 {
            refuse(desk, &agent);
        }
        trial.until(|desk| recorded(desk).len() == 1).await;
        let (record, first) = recorded(desk).remove(0);
        assert_eq!(first.suppressed, 0);
        let proven = record.attestation.unwrap();
        let attested = standing::prove(&desk.state.view(), &agent, record.time).unwrap();
        assert_eq!((proven.kind.as_str(), &proven.evidence), ("svid", attested.evidence()));

        let now = desk.clock.unguarded();
        record_counted(desk, now);
        record_counted(desk, now.plus(DENY_RECORD_INTERVAL * 2));
        trial.until(|desk| recorded(desk).len() == 2).await;
        let (record, swept) = recorded(desk).remove(1);
        assert_eq!((swept.code.as_str(), 1 + swept.suppressed), ("csr", 999));
        assert!(swept.why.contains("/mintage/agent/n1") && record.attestation.is_none());
        assert!(desk.denials.unrecorded().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_ledger_does_not_take_is_counted_again() {
        let mut trial = Trial::open().await;
        let agent = trial.agent("n1").await;
        trial.close_ledger().await;
        let desk = &trial.desk;
        refuse(desk, &agent);
        refuse(desk, &agent);
        // The second was counted at once; the first comes back beside it.
        let told = Mutex::new(0);
        let given_back = |desk: &Desk| {
            let mut told = told.lock().unwrap();
            let count = |body: &Body| match body {
                Body::Deny(deny) => 1 + deny.suppressed,
                _ => 0,
            };
            *told += desk.denials.unrecorded().iter().map(count).sum::<u64>();
            *told == 2
        };
        trial.until(given_back).await;
    }

    #[test]
    fn a_storm_of_callers_is_bounded() {
        let denials = Denials::default();
        let start = UnixTime::from_seconds(1000);
        let caller = |n: usize| SpiffeId::parse(&format!("spiffe://td/mintage/agent/a{n}")).unwrap();
        let recorded = (0..2 * DENY_CALLERS_MAX)
            .filter(|&n| denials.note(&caller(n), "x", start).is_some())
            .count();
        assert_eq!(recorded, DENY_CALLERS_MAX);
        let others = denials.due(start);
        let count = DENY_CALLERS_MAX as u64;
        assert_eq!(others, [Counted { cause: None, count }], "counted together");
        let Body::Deny(deny) = others[0].body() else { panic!() };
        assert_eq!((deny.code.as_str(), deny.suppressed), (OTHERS_CODE, count - 1));
        denials.give_back(&others[0]);
        assert_eq!(denials.unrecorded(), [others[0].body()], "told at a stop, too");
        assert_eq!(denials.note(&caller(1), "x", start.plus(DENY_RECORD_INTERVAL)), Some(0));
    }
}
