//! One record for many events of a kind: the first is told at once, and those that follow within an interval are counted into
//! the next one, so that nobody can fill the ledger by doing the same again and again.

use std::{collections::HashMap, hash::Hash, time::Duration};

use mintage_identity::UnixTime;

/// Remembers when each cause was last told of, and how often it came since.
#[derive(Debug)]
pub(crate) struct Sparse<K> {
    told: HashMap<K, Told>,
    interval: Duration,
    causes_max: usize,
    /// Events of causes for which there is no room.
    others: u64,
}

#[derive(Debug)]
struct Told {
    at: UnixTime,
    suppressed: u64,
}

impl<K: Clone + Eq + Hash> Sparse<K> {
    /// Tells of each cause once in `interval`, and remembers so many causes.
    pub(crate) fn new(interval: Duration, causes_max: usize) -> Self {
        Self {
            told: HashMap::new(),
            interval,
            causes_max,
            others: 0,
        }
    }

    /// Notes `count` events of a cause. `Some(n)`: tell, `n` were suppressed since the last time. `None`: do not.
    pub(crate) fn note(&mut self, cause: &K, count: u64, now: UnixTime) -> Option<u64> {
        let interval = self.interval;
        let is_recent = |told: &Told| apart(told.at, now) < interval;
        if let Some(known) = self.told.get_mut(cause) {
            if is_recent(known) {
                known.suppressed += count;
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.suppressed));
        }
        // What was counted and not told goes last.
        if self.told.len() >= self.causes_max {
            self.told.retain(|_, told| is_recent(told) || told.suppressed > 0);
        }
        if self.told.len() >= self.causes_max {
            let others = &mut self.others;
            self.told.retain(|_, told| {
                let stays = is_recent(told);
                *others += if stays { 0 } else { told.suppressed };
                stays
            });
        }
        // A table full of recent causes means a storm: it is counted as one, and the ledger does not grow with it.
        if self.told.len() >= self.causes_max {
            self.others += count;
            return None;
        }
        self.told.insert(cause.clone(), Told { at: now, suppressed: 0 });
        Some(0)
    }

    /// Counts again what was to be told and could not be.
    pub(crate) fn give_back(&mut self, cause: &K, count: u64) {
        match self.told.get_mut(cause) {
            Some(known) => known.suppressed += count,
            None => self.others += count,
        }
    }

    /// Takes the counts of causes that were not told of within the interval; they count as told of now.
    pub(crate) fn due(&mut self, now: UnixTime) -> Vec<(K, u64)> {
        let interval = self.interval;
        let due = self.told.iter_mut();
        let due = due.filter(|(_, told)| told.suppressed > 0 && apart(told.at, now) >= interval);
        due.map(|(cause, told)| {
            told.at = now;
            (cause.clone(), std::mem::take(&mut told.suppressed))
        })
        .collect()
    }

    /// Takes the count of events whose causes are not remembered.
    pub(crate) fn others(&mut self) -> u64 {
        std::mem::take(&mut self.others)
    }

    /// Counts such events again.
    pub(crate) fn give_back_others(&mut self, count: u64) {
        self.others += count;
    }

    /// Causes that are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.told.len()
    }

    /// Takes the counts that were not told yet.
    pub(crate) fn counted(&mut self) -> impl Iterator<Item = (&K, u64)> {
        let counted = self.told.iter_mut().filter(|(_, told)| told.suppressed > 0);
        counted.map(|(cause, told)| (cause, std::mem::take(&mut told.suppressed)))
    }
}

/// Time between two instants. A clock that is set back must not silence a cause for longer than the interval.
pub(crate) fn apart(one: UnixTime, other: UnixTime) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn a_full_table_forgets_what_is_old_and_then_what_was_counted() {
        let at = |seconds: i64| UnixTime::from_seconds(1000 + seconds);
        let mut sparse = Sparse::new(INTERVAL, 2);
        assert_eq!(
            (sparse.note(&1, 1, at(0)), sparse.note(&2, 1, at(0))),
            (Some(0), Some(0))
        );
        assert_eq!(sparse.note(&1, 3, at(1)), None);
        assert_eq!(sparse.note(&3, 1, at(1)), None, "both are recent");
        assert_eq!(sparse.note(&3, 1, at(11)), Some(0), "2 is old and has no count");
        assert_eq!(sparse.note(&1, 1, at(11)), Some(3), "1 was kept with its count");
        assert_eq!(sparse.note(&3, 5, at(12)), None);
        assert_eq!(sparse.note(&4, 1, at(40)), Some(0), "1 is old");
        assert_eq!(
            sparse.note(&5, 1, at(40)),
            Some(0),
            "3 was counted, and is the only old one"
        );
        assert_eq!(sparse.counted().count(), 0);
        assert_eq!(
            sparse.others(),
            6,
            "one of 3 for which there was no room, and five that were forgotten"
        );
        assert_eq!(sparse.others(), 0);
    }

    #[test]
    fn what_could_not_be_told_is_counted_again() {
        let at = |seconds: i64| UnixTime::from_seconds(1000 + seconds);
        let mut sparse = Sparse::new(INTERVAL, 1);
        sparse.note(&1, 1, at(0));
        sparse.note(&1, 4, at(1));
        assert_eq!(sparse.note(&1, 1, at(11)), Some(4));
        sparse.give_back(&1, 5);
        sparse.give_back(&2, 7);
        assert_eq!(
            sparse.due(at(12)),
            [],
            "it was told of a moment ago, as far as is known"
        );
        assert_eq!(sparse.due(at(21)), [(1, 5)]);
        assert_eq!(sparse.others(), 7, "2 is not remembered");
    }

    #[test]
    fn a_count_is_due_once_the_interval_is_over_and_keeps_its_pace() {
        let at = |seconds: i64| UnixTime::from_seconds(1000 + seconds);
        let mut sparse = Sparse::new(INTERVAL, 2);
        sparse.note(&1, 1, at(0));
        sparse.note(&1, 9, at(5));
        assert_eq!(sparse.due(at(9)), []);
        assert_eq!(sparse.due(at(10)), [(1, 9)]);
        assert_eq!(sparse.note(&1, 1, at(11)), None, "one record each interval");
        assert_eq!(sparse.due(at(20)), [(1, 1)]);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody_for_long() {
        let mut sparse = Sparse::new(INTERVAL, 2);
        assert_eq!(sparse.note(&1, 1, UnixTime::from_seconds(5000)), Some(0));
        assert_eq!(sparse.note(&1, 1, UnixTime::from_seconds(1000)), Some(0));
        assert_eq!(sparse.note(&1, 4, UnixTime::from_seconds(1001)), None);
        assert_eq!(sparse.counted().collect::<Vec<_>>(), [(&1, 4)]);
    }
}
