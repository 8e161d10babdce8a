//! When the proof of one receipt is asked for: a pure state machine over the time since boot. It begins when a certificate
//! is in place, tries a bounded number of times, and begins anew with the next certificate.

use std::time::Duration;

use crate::{
    limits::{RECEIPT_FIRST, RECEIPT_RETRY_FIRST, RECEIPT_RETRY_MAX, RECEIPT_TRIES_MAX},
    rotation::Jitter,
};

/// The state of one receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Chase {
    /// Nothing is wanted, or it is there, or it was given up.
    #[default]
    Over,
    /// The next try is due at this time since boot, after so many that failed.
    Waiting { due: Duration, failed: u32 },
    /// A try is under way, after so many that failed.
    Asking { failed: u32 },
}

impl Chase {
    /// A certificate is in place since `now`: by the first try its record is in a checkpoint in most cases.
    pub(crate) fn begin(now: Duration, jitter: Jitter) -> Self {
        Self::Waiting {
            due: now + RECEIPT_FIRST + jitter.of(RECEIPT_FIRST),
            failed: 0,
        }
    }

    /// When there is something to do by itself.
    pub(crate) fn wake_at(self) -> Option<Duration> {
        match self {
            Self::Waiting { due, .. } => Some(due),
            Self::Over | Self::Asking { .. } => None,
        }
    }

    /// The state after a try was begun; `None` when none is due.
    pub(crate) fn asked(self, now: Duration) -> Option<Self> {
        match self {
            Self::Waiting { due, failed } if now >= due => Some(Self::Asking { failed }),
            _ => None,
        }
    }

    /// The state after a try that failed and may be repeated; `Over` when it was the last.
    pub(crate) fn failed(self, now: Duration, jitter: Jitter) -> Self {
        let Self::Asking { failed } = self else { return self };
        let failed = failed + 1;
        if failed >= RECEIPT_TRIES_MAX {
            return Self::Over;
        }
        let whole = (RECEIPT_RETRY_FIRST * (1 << (failed - 1).min(16))).min(RECEIPT_RETRY_MAX);
        Self::Waiting {
            due: now + whole / 2 + jitter.of(whole / 2),
            failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn due(chase: Chase) -> Duration {
        chase.wake_at().expect("a try is due")
    }

    #[test]
    fn tries_are_spread_bounded_and_then_given_up() {
        let mut chase = Chase::begin(NOW, Jitter(0));
        assert_eq!(chase.asked(NOW), None, "not at once: the checkpoint takes a second");
        assert!(due(Chase::begin(NOW, Jitter(u16::MAX))) > due(chase), "not all at once");
        let (mut tries, mut waited) = (0, Vec::new());
        while let Some(at) = chase.wake_at() {
            let asking = chase.asked(at).expect("due");
            assert_eq!(asking.wake_at(), None, "one try at a time");
            tries += 1;
            chase = asking.failed(at, Jitter(u16::MAX));
            waited.extend(chase.wake_at().map(|next| next - at));
        }
        assert_eq!((tries, chase), (RECEIPT_TRIES_MAX, Chase::Over));
        assert!(
            waited.is_sorted() && waited.iter().all(|wait| *wait <= RECEIPT_RETRY_MAX),
            "{waited:?}"
        );
        assert_eq!(waited[0], RECEIPT_RETRY_FIRST);
        assert_eq!(Chase::Over.failed(NOW, Jitter(0)), Chase::Over);
    }
}
