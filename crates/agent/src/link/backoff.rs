//! When to try the CA again: waits that double up to a limit, with jitter, and addresses in a random order. Pure.

use std::time::Duration;

use crate::{
    limits::{RECONNECT_FIRST, RECONNECT_MAX},
    rotation::Jitter,
};

/// The state of the waits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next try, `at_most` that long; half of it fixed, half drawn, so that it never comes to nothing.
    pub(crate) fn next(&mut self, jitter: Jitter, at_most: Duration) -> Duration {
        let limit = at_most.clamp(RECONNECT_FIRST, RECONNECT_MAX);
        let whole = (RECONNECT_FIRST * (1 << self.failures.min(16))).min(limit);
        self.failures = self.failures.saturating_add(1);
        whole / 2 + whole / 2 * u32::from(jitter.0) / u32::from(u16::MAX)
    }

    /// A try succeeded.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `addresses` in an order drawn by `draw`, each once (Fisher-Yates).
pub(crate) fn shuffled(addresses: &[String], mut draw: impl FnMut() -> Jitter) -> Vec<String> {
    let mut order = addresses.to_vec();
    for at in (1..order.len()).rev() {
        order.swap(at, usize::from(draw().0) % (at + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_never_vanish_and_never_exceed_the_limit(
            draws in proptest::collection::vec(any::<u16>(), 1..200),
            at_most in 0u64..100_000,
        ) {
            let at_most = Duration::from_millis(at_most);
            let limit = at_most.clamp(RECONNECT_FIRST, RECONNECT_MAX);
            let mut backoff = Backoff::default();
            for draw in draws {
                let wait = backoff.next(Jitter(draw), at_most);
                prop_assert!(wait >= RECONNECT_FIRST / 2 && wait <= limit, "{wait:?}");
            }
            backoff.reset();
            prop_assert!(backoff.next(Jitter(u16::MAX), at_most) <= RECONNECT_FIRST);
        }

        #[test]
        fn every_address_is_tried_once_in_any_order(count in 0usize..8, seed: u16) {
            let addresses: Vec<String> = (0..count).map(|n| format!("ca{n}:1")).collect();
            let mut seed = seed;
            let mut order = shuffled(&addresses, || { seed = seed.wrapping_mul(25_173).wrapping_add(13_849); Jitter(seed) });
            order.sort();
            prop_assert_eq!(order, addresses);
        }
    }

    #[test]
    fn waits_grow_to_a_tenth_of_a_lifetime_of_60_s_and_no_further() {
        let mut backoff = Backoff::default();
        let tenth = Duration::from_secs(6);
        let waits: Vec<Duration> = (0..20).map(|_| backoff.next(Jitter(u16::MAX), tenth)).collect();
        assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
        assert_eq!(waits.last(), Some(&tenth));
        assert_eq!(
            backoff.next(Jitter(u16::MAX), Duration::MAX),
            RECONNECT_MAX,
            "nothing held"
        );
    }

    #[test]
    fn the_first_address_is_not_always_the_same() {
        let addresses: Vec<String> = (0..4).map(|n| format!("ca{n}:1")).collect();
        let firsts: std::collections::HashSet<String> = (0..64u16)
            .map(|seed| {
                let mut seed = seed;
                let mut draw = || {
                    seed = seed.wrapping_mul(25_173).wrapping_add(13_849);
                    Jitter(seed >> 3)
                };
                shuffled(&addresses, &mut draw).remove(0)
            })
            .collect();
        assert_eq!(firsts.len(), 4);
    }
}
