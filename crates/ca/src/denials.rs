//! Refusals of authenticated callers become ledger records, at most one per caller and code each interval; the rest are
//! counted into the next one, so that a noisy caller cannot fill the ledger.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mintage_attest::AgentSession;
use mintage_identity::{RequestId, SpiffeId, UnixTime};
use mintage_ledger::{Actor, Body, wire::Deny};
use mintage_policy::Want;
use mintage_verifier::VerifiedPeer;
use tonic::Code;
use tracing::{error, field::display, warn};

use crate::{
    control::{Origin, note},
    desk::Desk,
    limits::{DENY_CALLERS_MAX, DENY_RECORD_INTERVAL, DENY_RECORDS_AT_STOP_MAX},
    sparse::Sparse,
    standing,
    status::Refusal,
};

/// Remembers when each caller's refusal of each code was last recorded.
#[derive(Debug)]
pub(crate) struct Denials(Mutex<Sparse<(SpiffeId, &'static str)>>);

impl Default for Denials {
    fn default() -> Self {
        Self(Mutex::new(Sparse::new(DENY_RECORD_INTERVAL, DENY_CALLERS_MAX)))
    }
}

impl Denials {
    fn told(&self) -> MutexGuard<'_, Sparse<(SpiffeId, &'static str)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a refusal. `Some(n)`: write a record, `n` refusals were suppressed since the last. `None`: do not.
    pub(crate) fn note(&self, caller: &SpiffeId, code: &'static str, now: UnixTime) -> Option<u64> {
        self.told().note(&(caller.clone(), code), 1, now)
    }

    /// Takes the counts that no record has told yet, as the last records before a stop: at most as many as one group holds.
    pub(crate) fn unrecorded(&self) -> Vec<Body> {
        let mut told = self.told();
        let last = told
            .counted()
            .take(DENY_RECORDS_AT_STOP_MAX)
            .map(|((caller, code), count)| {
                // The record itself stands for one of them.
                let suppressed = count - 1;
                Body::Deny(Deny {
                    code: (*code).to_owned(),
                    why: format!("{caller} was refused again; counted until the stop and not recorded each"),
                    suppressed,
                    ..Deny::default()
                })
            });
        last.collect()
    }
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
    note(desk, &Origin::replica(desk), Body::Deny(deny));
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
    let Some(standing) = standing::of_agent(&view, &session.id) else {
        return;
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
        attestation: None,
        request_id: asked.request_id,
    };
    note(desk, &origin, Body::Deny(deny));
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
    use super::*;

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
    fn a_storm_of_callers_is_bounded() {
        let denials = Denials::default();
        let start = UnixTime::from_seconds(1000);
        let caller = |n: usize| SpiffeId::parse(&format!("spiffe://td/mintage/agent/a{n}")).unwrap();
        let recorded = (0..2 * DENY_CALLERS_MAX)
            .filter(|&n| denials.note(&caller(n), "x", start).is_some())
            .count();
        assert_eq!(recorded, DENY_CALLERS_MAX);
        assert_eq!(denials.note(&caller(1), "x", start.plus(DENY_RECORD_INTERVAL)), Some(0));
    }
}
