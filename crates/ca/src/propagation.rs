//! How fast agents enforce what is revoked: from publication to each acknowledgement.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    desk::Desk,
    limits::{CONNECTIONS_MAX, MEASURED_MAX},
};

/// When each recent revocation was published, and how long its acknowledgements took.
#[derive(Debug, Default)]
pub(crate) struct Propagation(Mutex<BTreeMap<u64, Spread>>);

#[derive(Debug)]
struct Spread {
    published: Duration,
    /// Seconds of each acknowledgement, in the order of their arrival. Kept for the newest revocations only.
    acks: Vec<f64>,
}

/// Revocations of which every acknowledgement is kept: 20,000 of 8 bytes for each of 16 are 2.6 MB.
const KEPT_ACKS: usize = 16;

/// The acknowledgements of one revocation, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) acks: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) slowest_ms: f64,
}

impl Propagation {
    pub(crate) fn published(&self, sequence: u64, at: Duration) {
        let mut measured = self.measured();
        let spread = Spread {
            published: at,
            acks: Vec::new(),
        };
        measured.insert(sequence, spread);
        while measured.len() > MEASURED_MAX {
            measured.pop_first();
        }
        if let Some(spread) = measured.values_mut().rev().nth(KEPT_ACKS) {
            spread.acks = Vec::new();
        }
    }

    /// An agent says for the first time that it enforces what came after `news.0`, up to `news.1`.
    pub(crate) fn acknowledged(&self, news: (u64, u64), desk: &Desk) {
        for seconds in self.spent(news, desk.clock.clock().monotonic()) {
            desk.metrics.propagated(seconds);
        }
    }

    /// The seconds that each of them took until `now`.
    fn spent(&self, (after, up_to): (u64, u64), now: Duration) -> Vec<f64> {
        if after >= up_to {
            return Vec::new();
        }
        let mut measured = self.measured();
        let count = measured.len();
        let mut spent = Vec::new();
        let acknowledged = (Bound::Excluded(after), Bound::Included(up_to));
        let newest: Vec<u64> = measured.keys().skip(count.saturating_sub(KEPT_ACKS)).copied().collect();
        for (sequence, spread) in measured.range_mut(acknowledged) {
            let seconds = now.saturating_sub(spread.published).as_secs_f64();
            spent.push(seconds);
            if newest.contains(sequence) && spread.acks.len() < CONNECTIONS_MAX {
                spread.acks.push(seconds);
            }
        }
        spent
    }

    /// The acknowledgements of the first revocation published at `sequence` or later: its news carries this one too.
    pub(crate) fn of(&self, sequence: u64) -> Percentiles {
        let acks = match self.measured().range(sequence..).next() {
            Some((_, spread)) => spread.acks.clone(),
            None => return Percentiles::default(),
        };
        percentiles(acks)
    }

    fn measured(&self) -> MutexGuard<'_, BTreeMap<u64, Spread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn percentiles(mut seconds: Vec<f64>) -> Percentiles {
    seconds.sort_by(f64::total_cmp);
    // The smallest value that at least so many of a hundred do not exceed.
    let at = |percent: usize| {
        let rank = (seconds.len() * percent).div_ceil(100);
        seconds.get(rank.saturating_sub(1)).copied().unwrap_or_default() * 1000.0
    };
    Percentiles {
        acks: seconds.len() as u64,
        p50_ms: at(50),
        p99_ms: at(99),
        slowest_ms: at(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(percentiles(Vec::new()), Percentiles::default());
        let one = percentiles(vec![0.25]);
        assert_eq!(
            (one.acks, one.p50_ms, one.p99_ms, one.slowest_ms),
            (1, 250.0, 250.0, 250.0)
        );
        let many = percentiles((1..=200).rev().map(|n| f64::from(n) / 1000.0).collect());
        assert_eq!((many.acks, many.p50_ms), (200, 100.0));
        assert_eq!((many.p99_ms, many.slowest_ms), (198.0, 200.0));
    }

    #[test]
    fn one_acknowledgement_counts_for_everything_that_it_is_news_of() {
        let propagation = Propagation::default();
        propagation.published(10, ms(1000));
        propagation.published(20, ms(3000));
        assert_eq!(propagation.spent((10, 10), ms(9000)), Vec::<f64>::new(), "no news");
        assert_eq!(propagation.spent((5, 20), ms(4000)), [3.0, 1.0]);
        assert_eq!(propagation.spent((10, 20), ms(5000)), [2.0]);
        assert_eq!((propagation.of(20).acks, propagation.of(20).slowest_ms), (2, 2000.0));
        assert_eq!(propagation.of(11), propagation.of(20), "it went out with the next");
        assert_eq!(propagation.of(10).acks, 1);
        assert_eq!(propagation.of(21), Percentiles::default());
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let propagation = Propagation::default();
        for sequence in 1..=2 * MEASURED_MAX as u64 {
            propagation.published(sequence, ms(0));
            propagation.spent((sequence - 1, sequence), ms(1));
        }
        let measured = propagation.measured();
        assert_eq!(measured.len(), MEASURED_MAX);
        assert_eq!(
            measured.values().filter(|spread| !spread.acks.is_empty()).count(),
            KEPT_ACKS
        );
    }
}
