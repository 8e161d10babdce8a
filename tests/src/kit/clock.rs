//! A clock that a test moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_ca::{Clock, Deps, SystemClock};
use mintage_identity::UnixTime;
use rustls::time_provider::TimeProvider;

/// The machine's clock, but earlier, or moved on by hand: wall and monotonic time together, so that it steps only when it
/// is told to.
#[derive(Debug)]
pub struct Shifted {
    system: SystemClock,
    behind: Duration,
    ahead_seconds: AtomicU64,
    stepped_seconds: AtomicI64,
}

impl Shifted {
    /// A clock that is this much behind the machine's.
    pub fn behind(behind: Duration) -> Arc<Self> {
        Arc::new(Self {
            system: SystemClock,
            behind,
            ahead_seconds: AtomicU64::new(0),
            stepped_seconds: AtomicI64::new(0),
        })
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(self.ahead_seconds.load(Ordering::SeqCst))
    }

    /// Moves on by whole seconds.
    pub fn move_on(&self, by: Duration) {
        self.ahead_seconds.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    /// Steps the wall clock alone, by whole seconds in either direction.
    pub fn step(&self, by_seconds: i64) {
        self.stepped_seconds.fetch_add(by_seconds, Ordering::SeqCst);
    }

    /// Moves on until it is `before` this instant.
    pub fn move_to(&self, instant: UnixTime, before: Duration) {
        let missing = instant.minus(before).since(self.now());
        self.move_on(missing + Duration::from_secs(1));
    }

    /// What a CA takes from outside, with this clock.
    pub fn deps(self: &Arc<Self>) -> Deps {
        Deps {
            clock: self.clone(),
            ..Deps::system()
        }
    }
}

impl Clock for Shifted {
    fn now(&self) -> UnixTime {
        let moved = self.system.now().minus(self.behind).plus(self.ahead());
        let stepped = self.stepped_seconds.load(Ordering::SeqCst);
        UnixTime::from_millis(moved.millis().saturating_add(stepped.saturating_mul(1000)))
    }
    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.ahead()
    }
}

impl TimeProvider for Shifted {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let seconds = u64::try_from(self.now().seconds()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            seconds,
        )))
    }
}
