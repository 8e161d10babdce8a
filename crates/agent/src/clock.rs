//! The two clocks and the random source of a running agent: everything impure that the pure parts take as arguments.

use std::{fmt, sync::Arc, time::Duration};

use mintage_identity::{RequestId, UnixTime};
use rustix::time::{ClockId, clock_gettime};
use rustls::{
    crypto::{CryptoProvider, SecureRandom},
    time_provider::{DefaultTimeProvider, TimeProvider},
};

use crate::rotation::{Jitter, Now};

/// What the agent takes from outside: one clock that drives TLS and rotation alike, one random source, one crypto
/// provider.
#[derive(Clone)]
pub struct Deps {
    /// The wall clock.
    pub clock: Arc<dyn TimeProvider>,
    /// The random source for request ids and jitter.
    pub random: &'static dyn SecureRandom,
    /// TLS and its signatures.
    pub provider: Arc<CryptoProvider>,
}

impl Deps {
    /// The system's clock, and ring for TLS and randomness.
    pub fn system() -> Self {
        let provider = rustls::crypto::ring::default_provider();
        Self {
            clock: Arc::new(DefaultTimeProvider),
            random: provider.secure_random,
            provider: Arc::new(provider),
        }
    }

    /// Both clocks now. A wall clock that cannot be read counts as 1970, by which nothing is valid yet.
    pub(crate) fn now(&self) -> Now {
        let wall = self.clock.current_time().map_or(0, |time| time.as_secs());
        let boot = clock_gettime(ClockId::Boottime);
        let boot = Duration::new(
            u64::try_from(boot.tv_sec).unwrap_or(0),
            u32::try_from(boot.tv_nsec).unwrap_or(0),
        );
        Now {
            wall: UnixTime::from_seconds(i64::try_from(wall).unwrap_or(i64::MAX)),
            boot,
        }
    }

    /// The wall clock alone.
    pub(crate) fn wall(&self) -> UnixTime {
        self.now().wall
    }

    /// A fresh draw. Without randomness the middle: renewals then bunch up, but they happen.
    pub(crate) fn jitter(&self) -> Jitter {
        let mut octets = [0; 2];
        match self.random.fill(&mut octets) {
            Ok(()) => Jitter(u16::from_le_bytes(octets)),
            Err(_) => Jitter(u16::MAX / 2),
        }
    }

    /// A fresh request id; `None` without randomness, and then nothing can be asked.
    pub(crate) fn request_id(&self) -> Option<RequestId> {
        let mut octets = [0; 16];
        self.random.fill(&mut octets).ok()?;
        Some(RequestId::new(octets))
    }
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}
