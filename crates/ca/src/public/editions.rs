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
    pub(super) fn snapshot(&self, epoch: u64, sequence: u64, now: UnixTime) -> Result<Option<Signed>, RevocationError> {
        let Some(published) = self.find(epoch, sequence) else {
            return Ok(None);
        };
        published.snapshot(now, NEWS_LIFETIME / 2).map(Some)
    }

    /// What came after `from`, up to an edition; none where there is no such edition, or no delta from there.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(super) fn delta(
        &self,
        epoch: u64,
        from: u64,
        to: u64,
        now: UnixTime,
    ) -> Result<Option<Signed>, RevocationError> {
        match self.find(epoch, to) {
            Some(published) => published.delta(from, now),
            None => Ok(None),
        }
    }

    /// The edition, while all but it and the newest give back what was signed of them.
    fn find(&self, epoch: u64, sequence: u64) -> Option<Arc<Published>> {
        let editions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = editions.back()?.published.sequence();
        let mut found = None;
        for Edition { published, .. } in editions.iter() {
            if published.sequence() == sequence && published.epoch() == epoch {
                found = Some(published.clone());
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
        for sequence in &named {
            assert!(editions.snapshot(3, *sequence, now).unwrap().is_some());
            assert!(editions.delta(3, 1, *sequence, now).unwrap().is_some());
            assert!(editions.delta(3, *sequence, *sequence, now).unwrap().is_none());
            assert!(editions.snapshot(2, *sequence, now).unwrap().is_none(), "another epoch");
        }
        assert!(
            editions.snapshot(3, named[0] + 1, now).unwrap().is_none(),
            "nobody was told of it"
        );
        let last = states.last().unwrap();
        editions.latest(last, now).unwrap();
        assert!(editions.snapshot(3, named[0], now).unwrap().is_none(), "gone");
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
