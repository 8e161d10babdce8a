//! The states of the set that files are served of. A new one comes at most once a second, so that readers find what `latest`
//! named a moment ago, and so that caches are of use while much is revoked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use mintage_identity::UnixTime;
use mintage_revocation::RevocationError;

use crate::{
    limits::{EDITION_INTERVAL, EDITIONS_MAX, HEARTBEAT_INTERVAL, NEWS_LIFETIME},
    published::{Published, Signed},
};

/// The states that files are served of, the newest last.
#[derive(Debug, Default)]
pub(super) struct Editions(Mutex<VecDeque<Edition>>);

/// When something is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    /// The time that news of the published set may carry.
    pub(super) now: UnixTime,
    /// The sequence that was published last, read after the time.
    pub(super) published: u64,
}

#[derive(Debug)]
struct Edition {
    published: Arc<Published>,
    since: UnixTime,
    /// Signed while nothing newer was known.
    heartbeat: Signed,
}

impl Editions {
    /// The heartbeat of the newest edition; a new one is made of `current` where it is time.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn latest(&self, current: &Arc<Published>, now: UnixTime) -> Result<Signed, RevocationError> {
        let mut editions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = editions.back_mut() {
            if newest.published.sequence() == current.sequence() {
                newest.heartbeat = current.heartbeat(now, HEARTBEAT_INTERVAL)?;
                return Ok(newest.heartbeat.clone());
            }
            // A clock that was set back makes it one of the future.
            if newest.since <= now && now.since(newest.since) < EDITION_INTERVAL {
                return Ok(newest.heartbeat.clone());
            }
        }
        let heartbeat = current.heartbeat(now, HEARTBEAT_INTERVAL)?;
        editions.push_back(Edition {
            published: current.clone(),
            since: now,
            heartbeat: heartbeat.clone(),
        });
        if editions.len() > EDITIONS_MAX {
            editions.pop_front();
        }
        Ok(heartbeat)
    }

    /// The whole set of an edition; none when it is no longer, or never was, one.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(super) fn snapshot(&self, epoch: u64, sequence: u64, time: Time) -> Result<Option<Signed>, RevocationError> {
        match self.find(epoch, sequence, time) {
            Some((published, as_of)) => published.snapshot(as_of, NEWS_LIFETIME / 2).map(Some),
            None => Ok(None),
        }
    }

    /// What came after `from`, up to an edition; none where there is no such edition, or no delta from there.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(super) fn delta(&self, epoch: u64, from: u64, to: u64, time: Time) -> Result<Option<Signed>, RevocationError> {
        match self.find(epoch, to, time) {
            Some((published, as_of)) => published.delta(from, as_of),
            None => Ok(None),
        }
    }

    /// The edition and the time that its objects may carry, while all but it and the newest give back what was signed of them.
    ///
    /// A reader takes a date for the word that nothing newer was known then. So what was superseded is dated as its last
    /// heartbeat is, and is no longer there once nobody may take that up any more.
    fn find(&self, epoch: u64, sequence: u64, time: Time) -> Option<(Arc<Published>, UnixTime)> {
        let editions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = editions.back()?.published.sequence();
        let mut found = None;
        for Edition {
            published, heartbeat, ..
        } in editions.iter()
        {
            if published.sequence() == sequence && published.epoch() == epoch {
                found = match sequence == time.published {
                    true => Some((published.clone(), time.now)),
                    false => (time.now < heartbeat.until).then(|| (published.clone(), heartbeat.at.min(time.now))),
                };
            } else if published.sequence() != newest {
                published.forget();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mintage_revocation::RevocationKey;

    use super::*;
    use crate::published::{
        Signer,
        tests::{NOW, covering, revoke},
    };

    fn states(count: u128) -> Vec<Arc<Published>> {
        let (key, _) = RevocationKey::generate().unwrap();
        let signer = Arc::new(Signer { key, epoch: 3 });
        let mut set = covering();
        let state = |number| {
            revoke(&mut set, number, 1);
            Arc::new(Published::new(signer.clone(), set.clone(), Vec::new()))
        };
        (0..count).map(state).collect()
    }

    #[test]
    fn what_was_named_is_found_for_a_while_and_a_storm_makes_one_edition_a_second() {
        let (editions, states) = (Editions::default(), states(EDITIONS_MAX as u128 * 10));
        let mut named = Vec::new();
        for (at, state) in states.iter().enumerate() {
            let now = NOW.plus(EDITION_INTERVAL / 10 * at as u32);
            let heartbeat = editions.latest(state, now).unwrap();
            named.push(u64::from_le_bytes(heartbeat.bytes[64..72].try_into().unwrap()));
        }
        named.dedup();
        assert_eq!(named.len(), EDITIONS_MAX, "one in a second");
        let now = NOW.plus(EDITION_INTERVAL * EDITIONS_MAX as u32);
        let last = states.last().unwrap();
        let time = Time {
            now,
            published: last.sequence(),
        };
        for sequence in &named {
            assert!(editions.snapshot(3, *sequence, time).unwrap().is_some());
            assert!(editions.delta(3, 1, *sequence, time).unwrap().is_some());
            assert!(editions.delta(3, *sequence, *sequence, time).unwrap().is_none());
            assert!(
                editions.snapshot(2, *sequence, time).unwrap().is_none(),
                "another epoch"
            );
        }
        assert!(
            editions.snapshot(3, named[0] + 1, time).unwrap().is_none(),
            "nobody was told of it"
        );
        editions.latest(last, now).unwrap();
        assert!(editions.snapshot(3, named[0], time).unwrap().is_none(), "gone");
    }

    #[test]
    fn what_was_superseded_is_dated_when_it_was_the_newest_and_ends_with_that_date() {
        let (editions, states) = (Editions::default(), states(3));
        let after = |seconds| NOW.plus(Duration::from_secs(seconds));
        let [first, second] = [&states[1], &states[2]].map(|state| state.sequence());
        editions.latest(&states[1], after(1)).unwrap();
        let at = |now, published| Time { now, published };
        let dates = |sequence, time| {
            let snapshot = editions.snapshot(3, sequence, time).unwrap();
            let delta = editions.delta(3, 2, sequence, time).unwrap();
            snapshot.zip(delta).map(|(snapshot, delta)| [snapshot.at, delta.at])
        };
        assert_eq!(
            dates(first, at(after(3), first)),
            Some([after(3); 2]),
            "it is the newest"
        );
        // Something newer is published, though no reader was told of it.
        assert_eq!(dates(first, at(after(60), second)), Some([after(1); 2]));
        editions.latest(&states[2], after(70)).unwrap();
        assert_eq!(dates(first, at(after(80), second)), Some([after(1); 2]));
        assert_eq!(dates(second, at(after(80), second)), Some([after(80); 2]));
        assert_eq!(
            dates(first, at(after(1).plus(NEWS_LIFETIME), second)),
            None,
            "nobody may take it up"
        );
    }

    #[test]
    fn a_heartbeat_is_never_signed_for_what_is_not_the_newest() {
        let (editions, states) = (Editions::default(), states(2));
        let first = editions.latest(&states[0], NOW).unwrap();
        let later = NOW.plus(EDITION_INTERVAL / 2);
        let still = editions.latest(&states[1], later).unwrap();
        assert_eq!(
            (still.bytes, still.at),
            (first.bytes, NOW),
            "as it was signed when it was the newest"
        );
        let next = editions.latest(&states[1], NOW.plus(EDITION_INTERVAL)).unwrap();
        assert_eq!(next.at, NOW.plus(EDITION_INTERVAL));
        let back = editions.latest(&states[1], NOW.minus(Duration::from_secs(60))).unwrap();
        assert_eq!(back.at, NOW.minus(Duration::from_secs(60)), "the clock was set back");
    }
}
