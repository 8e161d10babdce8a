//! Certificates that agents saw in use, looked up in the ledger, which holds every certificate that this CA ever released.
//! One that is not there was made with a stolen key of the CA, or with other bytes than were recorded: an alarm record, a
//! metric and an error line. A certificate that was issued a moment ago never alarms: the index is waited for.

use std::sync::Arc;

use mintage_attest::AgentSession;
use mintage_identity::{IssuerKeyId, Serial, SpiffeId, UnixTime, limits::TTL_SECONDS_MAX};
use mintage_ledger::{Actor, Body, Journal, LedgerError, wire};
use mintage_mint::limits::BACKDATE;
use mintage_proto::{issuer_key_id, spiffe_id, v1};
use tracing::error;

use crate::{
    control::{Origin, submit_note},
    desk::Desk,
    limits::SEEN_USES_MAX,
    standing,
    status::Refusal,
};

mod alarms;

pub(crate) use alarms::SeenAlarms;

/// One certificate that an agent says it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    issuer: IssuerKeyId,
    serial: Serial,
    sha256: [u8; 32],
    spiffe_id: SpiffeId,
    not_before: UnixTime,
    not_after: UnixTime,
    at: UnixTime,
}

/// What the ledger says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It holds exactly this one.
    Known,
    /// No verifier takes it any more.
    Expired,
    /// It may have been issued before the oldest record that is kept.
    Older,
    /// It does not hold it; the index is of the record with this issuer and serial that holds another.
    Unknown(Option<u64>),
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Expired => "expired",
            Self::Older => "older",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// Reads a message.
///
/// # Errors
/// Refuses more than 64 certificates, and a field that cannot be one of a certificate's.
pub(crate) fn read(seen: v1::Seen) -> Result<Vec<Use>, Refusal> {
    if seen.uses.len() > SEEN_USES_MAX {
        let text = format!("uses: {} in one message, the limit is {SEEN_USES_MAX}", seen.uses.len());
        return Err(Refusal::new(tonic::Code::ResourceExhausted, "seen-uses", text));
    }
    seen.uses.into_iter().map(read_use).collect()
}

fn read_use(seen: v1::SeenUse) -> Result<Use, Refusal> {
    let octets = seen.certificate_sha256.len();
    let sha256 = seen
        .certificate_sha256
        .try_into()
        .map_err(|_| Refusal::invalid(format!("certificate_sha256: has {octets} octets, not 32")))?;
    let serial = Serial::from_be_octets(&seen.serial).map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(Use {
        issuer: issuer_key_id("issuer_key_id", &seen.issuer_key_id)?,
        serial,
        sha256,
        spiffe_id: spiffe_id("spiffe_id", &seen.spiffe_id)?,
        not_before: UnixTime::from_seconds(seen.not_before_s),
        not_after: UnixTime::from_seconds(seen.not_after_s),
        at: UnixTime::from_millis(seen.seen_at_ms),
    })
}

/// Looks the certificates up, and raises the alarm for those that the ledger does not hold.
pub(crate) async fn reconcile(desk: &Arc<Desk>, session: &AgentSession, uses: Vec<Use>) {
    let Ok(_working) = desk.seen.work().acquire().await else {
        return;
    };
    // Whatever was released before the message came is below this size.
    let last = desk.journal.size().checked_sub(1);
    if let Err(refusal) = desk.wait_applied(last).await {
        return unanswered(desk, uses.len(), &refusal);
    }
    let looking = desk.clone();
    let judged = tokio::task::spawn_blocking(move || {
        let now = looking.clock.unguarded();
        let judge = |seen: Use| judge(&looking, &seen, now).map(|verdict| (seen, verdict));
        uses.into_iter().map(judge).collect::<Vec<_>>()
    });
    let Ok(judged) = judged.await else {
        return unanswered(desk, 1, &"the look-up ended early");
    };
    let mut unknown = Vec::new();
    for outcome in judged {
        match outcome {
            Ok((seen, verdict)) => {
                desk.metrics.seen(verdict.word(), 1);
                if let Verdict::Unknown(recorded) = verdict {
                    unknown.push((seen, recorded));
                }
            }
            Err(problem) => unanswered(desk, 1, &problem),
        }
    }
    if !unknown.is_empty() {
        alarm(desk, session, unknown);
    }
}

fn unanswered(desk: &Desk, uses: usize, problem: &dyn std::fmt::Display) {
    desk.metrics.seen("unanswered", uses as u64);
    error!(%problem, "certificates seen in use could not be looked up in the ledger");
}

fn judge(desk: &Desk, seen: &Use, now: UnixTime) -> Result<Verdict, LedgerError> {
    if seen.not_after <= now {
        return Ok(Verdict::Expired);
    }
    match desk.index.certificate_of(&seen.issuer, &seen.serial)? {
        Some(issued) => {
            let Body::Issue(body) = issued.stored.decode()?.body else {
                return Ok(Verdict::Unknown(Some(issued.stored.index())));
            };
            let same = mintage_svid::cert_sha256(&body.certificate_der).as_bytes() == &seen.sha256;
            Ok(match same {
                true => Verdict::Known,
                false => Verdict::Unknown(Some(issued.stored.index())),
            })
        }
        None if may_be_older(seen, oldest(&*desk.journal)) => Ok(Verdict::Older),
        None => Ok(Verdict::Unknown(None)),
    }
}

/// When the oldest record that is kept was made; `None` where nothing was taken away before it.
fn oldest(journal: &dyn Journal) -> Option<UnixTime> {
    let first = journal.read_from(journal.first(), 1).ok()?.pop()?.decode().ok()?;
    match &first.body {
        Body::LogOpen(open) if open.previous_checkpoint.is_empty() => None,
        _ => Some(first.time),
    }
}

/// Whether the certificate could have been issued before the oldest record. None of ours lives longer than the longest
/// lifetime of an entry, so that one with an early start and a late end is none.
fn may_be_older(seen: &Use, oldest: Option<UnixTime>) -> bool {
    let longest = std::time::Duration::from_secs(u64::from(TTL_SECONDS_MAX)) + BACKDATE;
    let could_be_ours = seen.not_after.since(seen.not_before) <= longest;
    could_be_ours && oldest.is_some_and(|oldest| seen.not_before <= oldest)
}

/// Counts and tells certificates that the ledger does not hold, and records them unless that was done a moment ago.
fn alarm(desk: &Arc<Desk>, session: &AgentSession, unknown: Vec<(Use, Option<u64>)>) {
    desk.metrics.seen_unknown(unknown.len() as u64);
    let Some(report) = desk.seen.note(&session.id, unknown, desk.clock.unguarded()) else {
        return;
    };
    desk.metrics.alarm("seen-unknown");
    for (seen, recorded) in &report.unknown {
        error!(
            agent = %session.id, spiffe_id = %seen.spiffe_id, serial = %seen.serial, issuer = %seen.issuer,
            certificate_sha256 = hex::encode(seen.sha256), recorded,
            "a certificate in use that the ledger does not hold: somebody has a key of this CA; revoke that issuer's certificates"
        );
    }
    let instance = standing::of_agent(&desk.state.view(), &session.id).map(|standing| standing.instance);
    let Some(instance) = instance else {
        return desk.seen.give_back(&session.id, &report);
    };
    let origin = Origin {
        actor: Actor::Agent {
            id: session.id.clone(),
            instance,
            serial: Some(session.serial),
        },
        attestation: None,
        request_id: None,
    };
    submit(desk, &origin, session.id.clone(), report);
}

/// Records an alarm; what the ledger does not take is counted again.
fn submit(desk: &Arc<Desk>, origin: &Origin, agent: SpiffeId, report: Report) {
    let Some(ticket) = submit_note(desk, origin, Body::SeenReport(report.to_wire())) else {
        return desk.seen.give_back(&agent, &report);
    };
    let desk = desk.clone();
    tokio::spawn(async move {
        if ticket.outcomes().await.iter().any(Result::is_err) {
            desk.seen.give_back(&agent, &report);
        }
    });
}

/// One alarm record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    unknown: Vec<(Use, Option<u64>)>,
    /// Others of the same agent since the last record that were not recorded each.
    suppressed: u64,
}

impl Report {
    fn to_wire(&self) -> wire::SeenReport {
        let certificate = |(seen, recorded): &(Use, Option<u64>)| wire::SeenCertificate {
            issuer_key_id: seen.issuer.as_bytes().to_vec(),
            serial: seen.serial.octets().to_vec(),
            certificate_sha256: seen.sha256.to_vec(),
            seen_at_ms: seen.at.millis(),
            known: false,
            spiffe_id: seen.spiffe_id.to_string(),
            not_before_s: seen.not_before.seconds(),
            not_after_s: seen.not_after.seconds(),
            recorded: *recorded,
        };
        wire::SeenReport {
            certificates: self.unknown.iter().map(certificate).collect(),
            suppressed: self.suppressed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use super::*;
    use crate::trial::Trial;

    /// A certificate by its number, of ten minutes from 1000 s on.
    pub(super) fn one(number: u8) -> Use {
        Use {
            issuer: IssuerKeyId::new([1; 32]),
            serial: Serial::from_random([number; 16]),
            sha256: [number; 32],
            spiffe_id: SpiffeId::parse("spiffe://td/web").unwrap(),
            not_before: UnixTime::from_seconds(1000),
            not_after: UnixTime::from_seconds(1600),
            at: UnixTime::from_seconds(1200),
        }
    }

    fn wire_of(seen: &Use) -> v1::SeenUse {
        v1::SeenUse {
            issuer_key_id: seen.issuer.as_bytes().to_vec(),
            serial: seen.serial.octets().to_vec(),
            certificate_sha256: seen.sha256.to_vec(),
            spiffe_id: seen.spiffe_id.to_string(),
            not_before_s: 1000,
            not_after_s: 1600,
            seen_at_ms: 1_200_000,
        }
    }

    #[test]
    fn a_message_is_read_whole_or_refused_by_the_field_that_is_wrong() {
        let good = wire_of(&one(1));
        let of = |uses: Vec<v1::SeenUse>| read(v1::Seen { uses });
        assert_eq!(of(vec![good.clone()]).unwrap(), [one(1)]);
        assert!(of(vec![good.clone(); SEEN_USES_MAX]).is_ok());
        assert_eq!(of(vec![good.clone(); SEEN_USES_MAX + 1]).unwrap_err().code, "seen-uses");
        let refused = |field: &str, change: &dyn Fn(&mut v1::SeenUse)| {
            let mut bad = good.clone();
            change(&mut bad);
            let told = of(vec![good.clone(), bad]).unwrap_err().message;
            assert!(told.contains(field), "{told}");
        };
        refused("certificate_sha256", &|bad| bad.certificate_sha256.truncate(31));
        refused("issuer_key_id", &|bad| bad.issuer_key_id.clear());
        refused("serial", &|bad| bad.serial = vec![0; 4]);
        refused("serial", &|bad| bad.serial = vec![1; 21]);
        refused("spiffe_id", &|bad| bad.spiffe_id = "https://td/web".to_owned());
        let mut far = good.clone();
        (far.not_before_s, far.not_after_s, far.seen_at_ms) = (i64::MIN, i64::MAX, i64::MIN);
        assert!(of(vec![far]).is_ok(), "no time overflows");
    }

    /// Takes the count of what no record tells.
    fn counted(desk: &Desk) -> u64 {
        match desk.seen.unrecorded() {
            Some(Body::SeenReport(report)) => report.suppressed,
            _ => 0,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_ledger_does_not_take_is_counted_again() {
        let mut trial = Trial::open().await;
        let (agent, stranger) = (trial.agent("n1").await, trial.agent("n2").await);
        let unknown = |numbers: [u8; 2]| numbers.map(|number| (one(number), None)).to_vec();
        alarm(&trial.desk, &agent, unknown([1, 2]));
        alarm(&trial.desk, &agent, unknown([3, 4]));
        assert_eq!(counted(&trial.desk), 2, "the first two are recorded");
        trial.close_ledger().await;
        let desk = &trial.desk;
        alarm(desk, &stranger, unknown([5, 6]));
        alarm(desk, &stranger, unknown([7, 8]));
        let told = Mutex::new(0);
        let given_back = |desk: &Desk| {
            let mut told = told.lock().unwrap();
            *told += counted(desk);
            *told == 4
        };
        trial.until(given_back).await;
    }

    #[test]
    fn only_what_may_be_older_than_the_oldest_record_is_excused() {
        let at = UnixTime::from_seconds;
        assert!(!may_be_older(&one(1), None), "nothing was ever taken away");
        assert!(may_be_older(&one(1), Some(at(1000))));
        assert!(!may_be_older(&one(1), Some(at(999))), "its record would be kept");
        let mut long = one(1);
        long.not_before = at(0);
        long.not_after = at(i64::from(TTL_SECONDS_MAX)).plus(BACKDATE);
        assert!(may_be_older(&long, Some(at(5000))));
        long.not_after = long.not_after.plus(Duration::from_secs(1));
        assert!(
            !may_be_older(&long, Some(at(5000))),
            "no certificate of ours lives that long"
        );
    }
}
