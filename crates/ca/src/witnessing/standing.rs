//! How far the log is witnessed, and since when it is not: shared by the witnesses' tasks, the metrics and `/ready`.
//!
//! The log counts as witnessed as far as any configured witness has cosigned it; a metric tells each witness's size.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mintage_ledger::Hold;
use tokio::sync::watch;

use super::peer::WitnessPeer;

/// The configured witnesses, and how the log stands with them.
#[derive(Debug)]
pub(crate) struct Standing {
    peers: Vec<WitnessPeer>,
    max_unwitnessed: Duration,
    hold: Hold,
    state: Mutex<State>,
    /// How many cosignatures were added.
    added: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Records of the ledger, through all its logs, that a witness has cosigned since the start.
    cosigned: u64,
    /// When a checkpoint beyond that was first seen.
    since: Option<Duration>,
    alarmed: bool,
}

/// A change of the alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Raised,
    Cleared,
}

impl Standing {
    pub(crate) fn new(peers: Vec<WitnessPeer>, max_unwitnessed: Duration) -> Self {
        Self {
            peers,
            max_unwitnessed,
            hold: Hold::default(),
            state: Mutex::default(),
            added: watch::Sender::new(0),
        }
    }

    /// Lets the next checkpoint wait for the answers about the stored one.
    pub(crate) fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Changes whenever a cosignature was added to the stored checkpoint.
    pub(crate) fn additions(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }

    pub(crate) fn peers(&self) -> &[WitnessPeer] {
        &self.peers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint is stored that covers so many records of the ledger: a log that begins has a small size, and covers more.
    pub(crate) fn signed(&self, size: u64, now: Duration) {
        let mut state = self.state();
        if size > state.cosigned && !self.peers.is_empty() {
            state.since.get_or_insert(now);
        }
    }

    /// A witness cosigned a checkpoint over so many records, which was sent to it at `sent`; the stored one covers `stored`.
    pub(crate) fn cosigned(&self, size: u64, stored: u64, sent: Duration) {
        self.added.send_modify(|count| *count += 1);
        let mut state = self.state();
        if size <= state.cosigned {
            return;
        }
        state.cosigned = size;
        state.since = (stored > size).then_some(sent);
    }

    /// How long something of the log has been unwitnessed.
    pub(crate) fn age(&self, now: Duration) -> Duration {
        let since = self.state().since;
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// The age, and whether the alarm changed by it.
    pub(crate) fn look(&self, now: Duration) -> (Duration, Option<Change>) {
        let age = self.age(now);
        let mut state = self.state();
        let was = std::mem::replace(&mut state.alarmed, age > self.max_unwitnessed);
        let change = match (was, state.alarmed) {
            (false, true) => Some(Change::Raised),
            (true, false) => Some(Change::Cleared),
            _ => None,
        };
        (age, change)
    }

    /// Whether the log has been unwitnessed for longer than is allowed.
    pub(crate) fn is_alarmed(&self) -> bool {
        self.state().alarmed
    }

    /// What `/ready` says beside being ready.
    pub(crate) fn remark(&self, now: Duration) -> Option<String> {
        let told = || {
            format!(
                "unwitnessed: no witness has cosigned the log for {} s",
                self.age(now).as_secs()
            )
        };
        self.is_alarmed().then(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witnessing::peer::{SubmissionPrefix, parse_key};

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn standing() -> Standing {
        let key = mintage_ledger::CosignerKey::new("w1", [7; 32]).unwrap().to_string();
        let peer = WitnessPeer {
            url: SubmissionPrefix::parse("http://w.example").unwrap(),
            key: parse_key(&key).unwrap(),
        };
        Standing::new(vec![peer], at(60))
    }

    #[test]
    fn the_age_is_that_of_the_first_checkpoint_beyond_the_cosigned_one() {
        let standing = standing();
        assert_eq!(standing.age(at(5)), at(0));
        standing.signed(10, at(5));
        standing.signed(11, at(7));
        assert_eq!(standing.age(at(8)), at(3));
        // 11 was cosigned, and 12 came meanwhile.
        standing.signed(12, at(9));
        standing.cosigned(11, 12, at(8));
        assert_eq!(standing.age(at(10)), at(2));
        // A slower witness tells nothing new.
        standing.cosigned(10, 12, at(6));
        assert_eq!(standing.age(at(10)), at(2));
        standing.cosigned(12, 12, at(11));
        standing.signed(12, at(12));
        assert_eq!(standing.age(at(99)), at(0), "a log that does not grow is witnessed");
    }

    #[test]
    fn the_alarm_is_raised_once_and_cleared_once() {
        let standing = standing();
        standing.signed(10, at(0));
        assert_eq!(standing.look(at(60)), (at(60), None));
        assert_eq!(standing.look(at(61)), (at(61), Some(Change::Raised)));
        assert_eq!(standing.look(at(62)), (at(62), None));
        assert!(standing.remark(at(62)).unwrap().starts_with("unwitnessed: "));
        standing.cosigned(10, 10, at(62));
        assert_eq!(standing.look(at(63)), (at(0), Some(Change::Cleared)));
        assert_eq!(standing.remark(at(63)), None);
    }

    #[test]
    fn a_log_without_witnesses_is_not_alarmed() {
        let standing = Standing::new(Vec::new(), at(1));
        standing.signed(10, at(0));
        assert_eq!(standing.look(at(1000)), (at(0), None));
    }
}
