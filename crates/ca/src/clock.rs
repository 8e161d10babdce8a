//! The CA's clock: wall time for records and certificates, guarded by the monotonic clock. A wall clock that jumps
//! stops issuance until it agrees again or the process is started anew, because dates on certificates would be wrong.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mintage_identity::UnixTime;
use rustix::time::{ClockId, clock_gettime};
use rustls::time_provider::TimeProvider;

use crate::limits::CLOCK_STEP_MAX;

/// Where time comes from; tests pass their own.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time.
    fn now(&self) -> UnixTime;
    /// Time since some fixed instant, never stepped; it goes on while the machine is suspended.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Since the machine's start. CLOCK_MONOTONIC stands still in suspend (clock_gettime(2)): after it the wall clock
    /// would look as if it had been stepped, and nothing would be issued any more.
    fn monotonic(&self) -> Duration {
        let since = clock_gettime(ClockId::Boottime);
        Duration::new(
            u64::try_from(since.tv_sec).unwrap_or(0),
            u32::try_from(since.tv_nsec).unwrap_or(0),
        )
    }
}

/// One clock drives TLS and everything else.
#[derive(Debug)]
pub(crate) struct TlsTime(pub(crate) Arc<dyn Clock>);

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            seconds,
        )))
    }
}

/// Compares wall and monotonic clock.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    clock: Arc<dyn Clock>,
    wall: UnixTime,
    monotonic: Duration,
}

/// The wall clock left the monotonic clock by more than is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the wall clock stepped by {step_seconds} s since the start; until it is right again nothing is issued, and nothing is \
     recorded or revoked, since its date would be wrong (restart the CA if the new time is the true one)"
)]
pub(crate) struct ClockStepped {
    step_seconds: i64,
}

impl ClockGuard {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            wall: clock.now(),
            monotonic: clock.monotonic(),
            clock,
        }
    }

    /// Wall time, if it still agrees with the monotonic clock.
    pub(crate) fn now(&self) -> Result<UnixTime, ClockStepped> {
        let now = self.clock.now();
        let expected = self.wall.plus(self.clock.monotonic().saturating_sub(self.monotonic));
        let step = now.millis().saturating_sub(expected.millis());
        if u128::from(step.unsigned_abs()) > CLOCK_STEP_MAX.as_millis() {
            return Err(ClockStepped {
                step_seconds: step / 1000,
            });
        }
        Ok(now)
    }

    /// Wall time, right or not: for logs, listings and refusals.
    pub(crate) fn unguarded(&self) -> UnixTime {
        self.clock.now()
    }

    /// The earlier of wall time and of what it would be had it not stepped: what lives then includes all that really lives,
    /// unless the clock was ahead at the start already.
    pub(crate) fn earliest(&self) -> UnixTime {
        let expected = self.wall.plus(self.clock.monotonic().saturating_sub(self.monotonic));
        self.clock.now().min(expected)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A clock whose hands are moved by hand.
    #[derive(Debug)]
    pub(crate) struct Hands(pub(crate) Mutex<(UnixTime, Duration)>);

    impl Clock for Hands {
        fn now(&self) -> UnixTime {
            self.0.lock().unwrap().0
        }
        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap().1
        }
    }

    #[test]
    fn the_machines_monotonic_clock_is_the_one_that_counts_suspends() {
        // The kernel's uptime includes them (proc_uptime(5)); of a process just started any other clock is far from it.
        let uptime = || -> f64 {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let (before, told, after) = (uptime(), SystemClock.monotonic().as_secs_f64(), uptime());
        // Uptime has two digits.
        assert!(
            (before - 0.01..=after + 0.01).contains(&told),
            "{before} {told} {after}"
        );
    }

    #[test]
    fn steps_in_either_direction_stop_issuance_and_drift_does_not() {
        let start = UnixTime::from_seconds(1_800_000_000);
        let hands = Arc::new(Hands(Mutex::new((start, Duration::ZERO))));
        let guard = ClockGuard::new(hands.clone());
        let set = |wall: UnixTime, mono: u64| *hands.0.lock().unwrap() = (wall, Duration::from_secs(mono));
        set(start.plus(Duration::from_secs(3601)), 3600);
        assert!(guard.now().is_ok());
        for year in [-1, 1, 10] {
            set(UnixTime::from_seconds(start.seconds() + year * 31_536_000), 3600);
            assert!(guard.now().is_err());
        }
        set(start.minus(Duration::from_secs(3600)), 60);
        assert!(guard.now().unwrap_err().to_string().contains("-3660 s"));
        set(UnixTime::from_seconds(0), 60);
        assert!(guard.now().is_err());
    }

    #[test]
    fn the_earliest_time_follows_a_step_back_and_no_step_ahead() {
        let start = UnixTime::from_seconds(1_800_000_000);
        let hands = Arc::new(Hands(Mutex::new((start, Duration::ZERO))));
        let guard = ClockGuard::new(hands.clone());
        let minute = Duration::from_secs(60);
        for (wall, earliest) in [
            (start.plus(minute * 600), start.plus(minute)),
            (start.minus(minute), start.minus(minute)),
        ] {
            *hands.0.lock().unwrap() = (wall, minute);
            assert_eq!(guard.earliest(), earliest);
        }
    }
}
