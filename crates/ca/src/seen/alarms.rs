//! How often the alarm is recorded: each certificate once in an hour, each agent once in a while, the rest counted into the
//! agent's next record, so that one that makes certificates up cannot fill the ledger.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mintage_identity::{SpiffeId, UnixTime};
use mintage_ledger::{Body, wire::SeenReport};
use tokio::sync::Semaphore;

use super::{Report, Use};
use crate::{
    limits::{
        SEEN_AGAIN_AFTER, SEEN_AGENTS_MAX, SEEN_HASHES_MAX, SEEN_IN_WORK, SEEN_RECORD_CERTIFICATES_MAX,
        SEEN_RECORD_INTERVAL,
    },
    sparse::{Sparse, apart},
};

/// What was recorded of whom, and the places of those that are looked up.
#[derive(Debug)]
pub(crate) struct SeenAlarms {
    told: Mutex<Told>,
    work: Semaphore,
}

#[derive(Debug)]
struct Told {
    agents: Sparse<SpiffeId>,
    hashes: HashMap<[u8; 32], UnixTime>,
}

impl Default for SeenAlarms {
    fn default() -> Self {
        Self {
            told: Mutex::new(Told {
                agents: Sparse::new(SEEN_RECORD_INTERVAL, SEEN_AGENTS_MAX),
                hashes: HashMap::new(),
            }),
            work: Semaphore::new(SEEN_IN_WORK),
        }
    }
}

impl SeenAlarms {
    /// The places of messages that are looked up.
    pub(super) fn work(&self) -> &Semaphore {
        &self.work
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an agent reported and the ledger does not hold: what to record now, if anything.
    pub(super) fn note(&self, agent: &SpiffeId, unknown: Vec<(Use, Option<u64>)>, now: UnixTime) -> Option<Report> {
        let mut told = self.told();
        let mut unknown = told.not_recorded(unknown, now);
        if unknown.is_empty() {
            return None;
        }
        let suppressed = told.agents.note(agent, unknown.len() as u64, now)?;
        let beyond = unknown.len().saturating_sub(SEEN_RECORD_CERTIFICATES_MAX) as u64;
        unknown.truncate(SEEN_RECORD_CERTIFICATES_MAX);
        for (seen, _) in &unknown {
            told.remember(seen.sha256, now);
        }
        Some(Report {
            unknown,
            suppressed: suppressed + beyond,
        })
    }

    /// Counts again what the ledger did not take, and forgets its certificates: they are recorded when they are reported again.
    pub(super) fn give_back(&self, agent: &SpiffeId, report: &Report) {
        let mut told = self.told();
        let count = report.suppressed + report.unknown.len() as u64;
        told.agents.give_back(agent, count);
        for (seen, _) in &report.unknown {
            told.hashes.remove(&seen.sha256);
        }
    }

    /// Takes the counts that no record has told yet, as a last record before a stop.
    pub(crate) fn unrecorded(&self) -> Option<Body> {
        let mut told = self.told();
        let counted: u64 = told.agents.counted().map(|(_, count)| count).sum();
        let suppressed = counted + told.agents.others();
        let report = SeenReport {
            certificates: Vec::new(),
            suppressed,
        };
        (suppressed > 0).then_some(Body::SeenReport(report))
    }
}

impl Told {
    /// Those that were not recorded a while ago, each once.
    fn not_recorded(&self, mut unknown: Vec<(Use, Option<u64>)>, now: UnixTime) -> Vec<(Use, Option<u64>)> {
        let mut here = std::collections::HashSet::new();
        unknown.retain(|(seen, _)| {
            let recorded = self.hashes.get(&seen.sha256);
            recorded.is_none_or(|at| apart(*at, now) >= SEEN_AGAIN_AFTER) && here.insert(seen.sha256)
        });
        unknown
    }

    fn remember(&mut self, sha256: [u8; 32], now: UnixTime) {
        if self.hashes.len() >= SEEN_HASHES_MAX {
            self.hashes.retain(|_, at| apart(*at, now) < SEEN_AGAIN_AFTER);
        }
        // What is not remembered is recorded again, at the pace of its agent.
        if self.hashes.len() < SEEN_HASHES_MAX {
            self.hashes.insert(sha256, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::one, *};

    fn agent(number: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://td/mintage/agent/a{number}")).unwrap()
    }

    fn some(numbers: impl IntoIterator<Item = u8>) -> Vec<(Use, Option<u64>)> {
        numbers.into_iter().map(|number| (one(number), None)).collect()
    }

    const NOW: UnixTime = UnixTime::from_seconds(1300);

    #[test]
    fn a_certificate_is_recorded_once_whoever_reports_it() {
        let alarms = SeenAlarms::default();
        let first = alarms.note(&agent(1), some([1, 1]), NOW).unwrap();
        assert_eq!((first.unknown.len(), first.suppressed), (1, 0));
        assert_eq!(alarms.note(&agent(2), some([1]), NOW), None);
        let other = alarms.note(&agent(2), some([1, 2]), NOW).unwrap();
        assert_eq!(other.unknown, some([2]));
        let later = NOW.plus(SEEN_AGAIN_AFTER);
        assert!(alarms.note(&agent(1), some([1]), later).is_some(), "still in use");
    }

    #[test]
    fn one_record_each_interval_carries_the_count_of_the_others() {
        let alarms = SeenAlarms::default();
        assert!(alarms.note(&agent(1), some([1]), NOW).is_some());
        assert_eq!(alarms.note(&agent(1), some([2, 3]), NOW), None);
        assert!(
            alarms.note(&agent(2), some([4]), NOW).is_some(),
            "another agent is heard"
        );
        let next = alarms
            .note(&agent(1), some([2]), NOW.plus(SEEN_RECORD_INTERVAL))
            .unwrap();
        assert_eq!((next.unknown.len(), next.suppressed), (1, 2));
        // What does not fit into the record is counted, and recorded when it is reported again.
        let most = u8::try_from(SEEN_RECORD_CERTIFICATES_MAX).unwrap();
        let later = NOW.plus(SEEN_RECORD_INTERVAL * 2);
        let many = alarms.note(&agent(1), some(10..12 + most), later).unwrap();
        assert_eq!((many.unknown.len(), many.suppressed), (SEEN_RECORD_CERTIFICATES_MAX, 2));
        let rest = alarms
            .note(&agent(1), some(10..12 + most), later.plus(SEEN_RECORD_INTERVAL))
            .unwrap();
        assert_eq!(rest.unknown.len(), 2);
    }

    #[test]
    fn what_was_counted_is_told_once_at_a_stop() {
        let alarms = SeenAlarms::default();
        alarms.note(&agent(1), some([1]), NOW);
        alarms.note(&agent(1), some([2, 3]), NOW);
        let Some(Body::SeenReport(last)) = alarms.unrecorded() else {
            panic!("two are not recorded")
        };
        assert_eq!((last.suppressed, last.certificates.len()), (2, 0));
        assert_eq!(alarms.unrecorded(), None);
    }

    #[test]
    fn what_the_ledger_does_not_take_is_counted_and_recorded_again() {
        let alarms = SeenAlarms::default();
        alarms.note(&agent(1), some([1]), NOW).unwrap();
        assert_eq!(alarms.note(&agent(1), some([2, 3, 4]), NOW), None);
        let later = NOW.plus(SEEN_RECORD_INTERVAL);
        let lost = alarms.note(&agent(1), some([5, 6]), later).unwrap();
        assert_eq!((lost.unknown.len(), lost.suppressed), (2, 3));
        alarms.give_back(&agent(1), &lost);
        // One record each interval, of this agent; another tells of the same certificate at once.
        assert_eq!(alarms.note(&agent(1), some([5]), later), None);
        assert_eq!(alarms.note(&agent(2), some([6]), later).unwrap().unknown, some([6]));
        let next = alarms
            .note(&agent(1), some([1, 5]), later.plus(SEEN_RECORD_INTERVAL))
            .unwrap();
        assert_eq!((next.unknown, next.suppressed), (some([5]), 3 + 2 + 1));
        // Of an agent that is forgotten meanwhile the count alone stays.
        alarms.give_back(&agent(9), &lost);
        let Some(Body::SeenReport(last)) = alarms.unrecorded() else {
            panic!("it is not counted")
        };
        assert_eq!(last.suppressed, 5);
    }

    #[test]
    fn a_storm_of_agents_and_certificates_is_bounded() {
        let alarms = SeenAlarms::default();
        let recorded = (0..SEEN_AGENTS_MAX + 10)
            .filter(|number| {
                let mut seen = one(1);
                seen.sha256[..8].copy_from_slice(&number.to_be_bytes());
                alarms.note(&agent(*number), vec![(seen, None)], NOW).is_some()
            })
            .count();
        assert_eq!(recorded, SEEN_AGENTS_MAX);
        assert!(alarms.told().agents.len() <= SEEN_AGENTS_MAX && alarms.told().hashes.len() <= SEEN_HASHES_MAX);
        assert!(
            alarms
                .note(&agent(0), some([9]), NOW.plus(SEEN_RECORD_INTERVAL))
                .is_some()
        );
    }
}
