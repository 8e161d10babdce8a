//! What a verifier does when the filter is old: a named choice with a safe default.

use std::time::Duration;

use crate::limits::FRESH_FOR;

/// What to do with a "not revoked" from a filter whose last heartbeat is old. "Revoked" stands at any age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreshnessPolicy {
    /// Refuse whatever is not fresh (60 s).
    Strict,
    /// Accept, and count, up to this age; refuse past it.
    Bounded {
        /// Largest age of the last heartbeat.
        max_age: Duration,
    },
    /// Accept at any age and log it. A verifier that never had a filter still refuses.
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
}

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
    fn age_is_judged_by_the_policy() {
        let judge = |policy: FreshnessPolicy, seconds| policy.judge(Some(Duration::from_secs(seconds)));
        assert_eq!(judge(FreshnessPolicy::Strict, 60), Freshness::Stale);
        assert_eq!(judge(FreshnessPolicy::default(), 60), Freshness::Tolerated);
        assert_eq!(judge(FreshnessPolicy::default(), 600), Freshness::Tolerated);
        assert_eq!(judge(FreshnessPolicy::default(), 601), Freshness::Stale);
        assert_eq!(judge(FreshnessPolicy::Open, 1 << 40), Freshness::Tolerated);
    }
}
