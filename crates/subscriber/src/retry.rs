//! When to try again: waits that double up to a limit, half of each drawn, so that many subscribers of a publisher that comes
//! back do not come all at once. Pure.

use std::time::Duration;

use crate::limits::{RETRY_FIRST, RETRY_MAX};

/// The state of the waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
}

impl Retry {
    /// The next wait; `drawn` is random.
    pub(crate) fn next(&mut self, drawn: u16) -> Duration {
        let whole = (RETRY_FIRST * (1 << self.failures.min(16))).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        whole / 2 + whole / 2 * u32::from(drawn) / u32::from(u16::MAX)
    }

    /// A stream lived.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_never_vanish() {
        let mut retry = Retry::default();
        let longest: Vec<Duration> = (0..40).map(|_| retry.next(u16::MAX)).collect();
        assert_eq!(
            (longest[0], longest[1], longest[39]),
            (RETRY_FIRST, RETRY_FIRST * 2, RETRY_MAX)
        );
        retry.reset();
        assert_eq!(retry.next(0), RETRY_FIRST / 2);
    }
}
