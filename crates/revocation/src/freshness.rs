//! What a verifier does when the filter is old: a named choice with a safe default.

use std::time::Duration;

use crate::limits::FRESH_FOR;

/// What to do with a "not revoked" from a filter whose last heartbeat is old. "Revoked" stands at any age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshnessPolicy {
    /// Refuse whatever is not fresh (60 s).
    Strict,
    /// Accept, count and log up to this age; refuse past it.
    Bounded {
        /// Largest age of the last heartbeat.
        max_age: Duration,
    },
    /// Accept at any age, count and log it. A verifier that never had a filter still refuses.
    Open,
}

impl FreshnessPolicy {
    /// Largest age of the default policy: as long as the default SVID lives.
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(600);

    /// Judges a filter by the age of its last heartbeat; `None` means there is no filter yet, which is never fresh and
    /// under no policy tolerated.
    pub fn judge(&self, age: Option<Duration>) -> Freshness {
        let Some(age) = age else { return Freshness::Stale };
        match *self {
            _ if age < FRESH_FOR => Freshness::Fresh,
            Self::Bounded { max_age } if age <= max_age => Freshness::Tolerated,
            Self::Open => Freshness::Tolerated,
            Self::Strict | Self::Bounded { .. } => Freshness::Stale,
        }
    }

    /// How long a filter of this age will not be [`Freshness::Stale`] yet if nothing is heard; zero when it is, `None` when
    /// it never will be.
    pub fn stale_in(&self, age: Option<Duration>) -> Option<Duration> {
        let Some(age) = age else { return Some(Duration::ZERO) };
        match *self {
            Self::Open => None,
            Self::Bounded { max_age } if max_age >= FRESH_FOR && age <= max_age => {
                Some((max_age - age).saturating_add(STEP))
            }
            Self::Strict | Self::Bounded { .. } => Some(FRESH_FOR.saturating_sub(age)),
        }
    }
}

/// What times are told in: the largest age is tolerated, and the next one is not.
const STEP: Duration = Duration::from_millis(1);

impl Default for FreshnessPolicy {
    fn default() -> Self {
        Self::Bounded {
            max_age: Self::DEFAULT_MAX_AGE,
        }
    }
}

/// A policy's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The last heartbeat is younger than 60 s.
    Fresh,
    /// Old, accepted by the policy: count and log it.
    Tolerated,
    /// Too old: refuse.
    Stale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_is_stale_under_every_policy() {
        for policy in [
            FreshnessPolicy::Strict,
            FreshnessPolicy::default(),
            FreshnessPolicy::Open,
        ] {
            assert_eq!(policy.judge(None), Freshness::Stale, "{policy:?}");
            assert_eq!(
                policy.judge(Some(Duration::from_secs(59))),
                Freshness::Fresh,
                "{policy:?}"
            );
        }
    }

    #[test]
    fn it_is_stale_from_the_told_moment_on_and_not_before() {
        let bounded = |seconds| FreshnessPolicy::Bounded {
            max_age: Duration::from_secs(seconds),
        };
        for policy in [
            FreshnessPolicy::Strict,
            FreshnessPolicy::default(),
            bounded(60),
            bounded(5),
            bounded(0),
        ] {
            assert_eq!(policy.stale_in(None), Some(Duration::ZERO));
            for age in [0, 3, 59, 60, 61, 599, 600, 601, 10_000].map(Duration::from_secs) {
                let left = policy.stale_in(Some(age)).unwrap();
                let stale = |age| policy.judge(Some(age)) == Freshness::Stale;
                assert!(stale(age + left), "{policy:?} {age:?} {left:?}");
                assert!(
                    left.is_zero() || !stale(age + left - STEP),
                    "{policy:?} {age:?} {left:?}"
                );
                assert_eq!(left.is_zero(), stale(age), "{policy:?} {age:?}");
            }
        }
        assert_eq!(FreshnessPolicy::Open.stale_in(Some(Duration::MAX)), None);
    }

    #[test]
    fn age_is_judged_by_the_policy() {
        let judge = |policy: FreshnessPolicy, seconds| policy.judge(Some(Duration::from_secs(seconds)));
        assert_eq!(judge(FreshnessPolicy::Strict, 60), Freshness::Stale);
        assert_eq!(judge(FreshnessPolicy::default(), 60), Freshness::Tolerated);
        assert_eq!(judge(FreshnessPolicy::default(), 600), Freshness::Tolerated);
        assert_eq!(judge(FreshnessPolicy::default(), 601), Freshness::Stale);
        assert_eq!(judge(FreshnessPolicy::Open, 1 << 40), Freshness::Tolerated);
    }
}
