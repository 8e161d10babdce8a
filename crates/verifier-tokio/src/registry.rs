//! Every live connection, so that a revocation or an expiry ends it instead of waiting for its next handshake.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mintage_identity::{SpiffeId, UnixTime};
use mintage_revocation::{Added, EntryKey};
use mintage_verifier::{TrustStore, VerifiedPeer, VerifyError, from_rustls};
use rustls::time_provider::TimeProvider;
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    CloseReason, Guard,
    guard::Closing,
    limits::{CLOCK_AGAIN_AFTER, CONNECTIONS_MAX, LAST_SECOND_STEP, SLEEP_MAX},
    table::{Entry, Table},
};

/// What happens to a live connection whose revocation status can no longer be told, because the filter has grown too
/// old or is gone. New handshakes are refused in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UnknownStatus {
    /// It lives on, at most until its notAfter: an agent cut off from its CA does not tear down what works.
    #[default]
    KeepUntilExpiry,
    /// It ends when the filter has become too old for the policy, and at any re-check that finds the status unknown.
    Close,
}

/// Settings of a registry.
#[derive(Debug, Clone, Copy)]
pub struct RegistrySettings {
    /// Most live connections; one more is refused.
    pub connections_max: usize,
    /// What to do when the status is unknown.
    pub unknown_status: UnknownStatus,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            unknown_status: UnknownStatus::default(),
        }
    }
}

/// Why a connection was not taken in.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registry is full.
    #[error("{limit} connections are live already; raise the limit or add a server")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The peer is not accepted any more: revoked or expired between handshake and registration.
    #[error("the peer is not accepted any more: {0}")]
    Refused(#[from] VerifyError),
    /// The clock could not be read.
    #[error("the clock cannot be read; a certificate's expiry cannot be judged")]
    NoClock,
}

/// The registry; clones are the same one. Its expiry task ends with the last clone and the last guard.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    trust: Arc<TrustStore>,
    time: Arc<dyn TimeProvider>,
    settings: RegistrySettings,
    table: Mutex<Table>,
    sooner: Arc<Notify>,
    /// Somebody was to be asked for again while there was no clock to do it by: everybody is, once there is one.
    owed: AtomicBool,
    closed_expired: AtomicU64,
    closed_refused: AtomicU64,
    closed_ended: AtomicU64,
    refused_full: AtomicU64,
    rechecked: AtomicU64,
    task: Mutex<Option<AbortHandle>>,
}

/// Counts since the registry was started, and how many are live now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryCounts {
    /// Connections live now.
    pub live: usize,
    /// Told to end at notAfter.
    pub closed_expired: u64,
    /// Told to end because the peer is no longer accepted.
    pub closed_refused: u64,
    /// Told to end by the program.
    pub closed_ended: u64,
    /// Not taken in because the registry was full.
    pub refused_full: u64,
    /// Times that a live connection was asked for again: news costs as many as it may concern.
    pub rechecked: u64,
}

impl Registry {
    /// Starts a registry over `trust` with its expiry task; needs a tokio runtime with time enabled.
    pub fn start(trust: Arc<TrustStore>, time: Arc<dyn TimeProvider>, settings: RegistrySettings) -> Self {
        let sooner = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            trust,
            time,
            settings,
            table: Mutex::default(),
            sooner: sooner.clone(),
            owed: AtomicBool::new(false),
            closed_expired: AtomicU64::new(0),
            closed_refused: AtomicU64::new(0),
            closed_ended: AtomicU64::new(0),
            refused_full: AtomicU64::new(0),
            rechecked: AtomicU64::new(0),
            task: Mutex::new(None),
        });
        let weak = Arc::downgrade(&inner);
        let task = tokio::spawn(async move {
            loop {
                // Held only between two sleeps: the task does not keep the registry alive.
                let Some(sleep) = weak.upgrade().map(|inner| inner.end_what_is_over()) else {
                    return;
                };
                tokio::select! {
                    () = tokio::time::sleep(sleep) => {}
                    () = sooner.notified() => {}
                }
            }
        });
        *lock(&inner.task) = Some(task.abort_handle());
        Self { inner }
    }

    /// The snapshots the registry judges by.
    pub fn trust(&self) -> &Arc<TrustStore> {
        &self.inner.trust
    }

    pub(crate) fn now(&self) -> Option<UnixTime> {
        self.inner.now()
    }

    /// Takes a connection in. The peer is checked once more after it is in the table: whatever is revoked between its
    /// handshake and now is found here, whatever is revoked later is found in the table.
    ///
    /// # Errors
    /// When the registry is full, and when the peer is revoked, expired or without a root by now. Nothing stays behind.
    pub fn register(&self, peer: VerifiedPeer) -> Result<Guard, RegisterError> {
        let peer = Arc::new(peer);
        let closing = Arc::new(Closing::default());
        let entry = Entry {
            peer: peer.clone(),
            closing: closing.clone(),
        };
        let (number, is_next) = {
            let mut table = lock(&self.inner.table);
            let limit = self.inner.settings.connections_max;
            if table.len() >= limit {
                self.inner.refused_full.fetch_add(1, Ordering::Relaxed);
                return Err(RegisterError::Full { limit });
            }
            table.insert(entry, self.inner.trust.load().news_keys(&peer))
        };
        let guard = Guard {
            registry: self.inner.clone(),
            number,
            peer,
            closing,
        };
        let now = self.inner.now().ok_or(RegisterError::NoClock)?;
        self.inner.trust.load().recheck(&guard.peer, now)?;
        if is_next {
            self.inner.sooner.notify_one();
        }
        Ok(guard)
    }

    /// Ends the connections that this news concerns and the current snapshot refuses. Serials and rules cost one look-up
    /// each, however many connections there are; a whole snapshot looks at every connection. Call it after the news
    /// is in place. Returns how many were told to end.
    pub fn apply(&self, added: &Added) -> usize {
        if added.everything {
            return self.trust_changed();
        }
        let suspects = lock(&self.inner.table).concerned(added);
        self.inner.recheck(suspects)
    }

    /// Asks again for every connection and ends those that are refused now. Call it after each
    /// [`TrustStore::swap`]. Returns how many were told to end.
    pub fn trust_changed(&self) -> usize {
        let trust = self.inner.trust.load_full();
        let everyone = {
            let mut table = lock(&self.inner.table);
            table.sort_anew(|peer| trust.news_keys(peer));
            table.all()
        };
        self.inner.recheck(everyone)
    }

    /// The keys under which news may name live connections.
    pub(crate) fn keys(&self) -> Vec<EntryKey> {
        lock(&self.inner.table).keys()
    }

    /// Ends every connection of this SPIFFE ID, whatever the snapshot says: for an agent that was banned or evicted.
    /// Returns how many were told to end.
    pub fn end_id(&self, id: &SpiffeId, why: &'static str) -> usize {
        let meant = lock(&self.inner.table).of_id(id);
        self.inner.end(meant, why)
    }

    /// Ends every connection, as a server does that drains. Returns how many were told to end.
    pub fn end_all(&self, why: &'static str) -> usize {
        let everyone = lock(&self.inner.table).all();
        self.inner.end(everyone, why)
    }

    /// Live connections and counts.
    pub fn counts(&self) -> RegistryCounts {
        let inner = &self.inner;
        RegistryCounts {
            live: lock(&inner.table).len(),
            closed_expired: inner.closed_expired.load(Ordering::Relaxed),
            closed_refused: inner.closed_refused.load(Ordering::Relaxed),
            closed_ended: inner.closed_ended.load(Ordering::Relaxed),
            refused_full: inner.refused_full.load(Ordering::Relaxed),
            rechecked: inner.rechecked.load(Ordering::Relaxed),
        }
    }
}

impl Inner {
    fn now(&self) -> Option<UnixTime> {
        self.time.current_time().map(from_rustls)
    }

    pub(crate) fn remove(&self, number: u64) {
        lock(&self.table).remove(number);
    }

    /// Ends the suspects that are refused now; outside the table's lock, since it wakes their tasks.
    fn recheck(&self, suspects: Vec<Entry>) -> usize {
        let Some(now) = self.now() else {
            // News comes once: what is not looked at now would live on until its notAfter.
            if !suspects.is_empty() && !self.owed.swap(true, Ordering::AcqRel) {
                tracing::warn!("the clock cannot be read; live connections are looked at again once it can");
                self.sooner.notify_one();
            }
            return 0;
        };
        self.rechecked.fetch_add(suspects.len() as u64, Ordering::Relaxed);
        let trust = self.trust.load_full();
        let mut ended = 0;
        for suspect in suspects {
            let Err(error) = trust.recheck(&suspect.peer, now) else {
                continue;
            };
            if error.is_unknown_status() && self.settings.unknown_status == UnknownStatus::KeepUntilExpiry {
                continue;
            }
            tracing::info!(code = error.code(), "closing a live connection: {error}");
            ended += usize::from(suspect.closing.close(CloseReason::Refused(error)));
        }
        self.closed_refused.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    fn end(&self, meant: Vec<Entry>, why: &'static str) -> usize {
        let meant = meant.into_iter();
        let ended = meant
            .filter(|entry| entry.closing.close(CloseReason::Ended(why)))
            .count();
        self.closed_ended.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Ends what has expired, and what nobody can tell the status of any more where that is no reason to live on; returns
    /// how long to sleep until the next look.
    fn end_what_is_over(&self) -> Duration {
        let Some(now) = self.now() else {
            return CLOCK_AGAIN_AFTER;
        };
        self.recheck_owed();
        let left = match (self.end_expired(now), self.end_unknown(now)) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other).unwrap_or(SLEEP_MAX),
        };
        // The clock's seconds are rounded down, so the real time may be up to a second further.
        let coarse = left.saturating_sub(Duration::from_secs(1));
        coarse.clamp(LAST_SECOND_STEP, SLEEP_MAX)
    }

    /// Looks at every connection if some were passed over for want of a clock.
    fn recheck_owed(&self) {
        // Taken back before the look: news that comes meanwhile, and finds no clock again, is owed anew.
        if self.owed.swap(false, Ordering::AcqRel) {
            let everyone = lock(&self.table).all();
            self.recheck(everyone);
        }
    }

    /// How long until the next connection expires.
    fn end_expired(&self, now: UnixTime) -> Option<Duration> {
        let (ended, next) = {
            let mut table = lock(&self.table);
            (table.take_ended(now), table.next_end())
        };
        let closed = ended
            .iter()
            .filter(|entry| entry.closing.close(CloseReason::Expired))
            .count();
        self.closed_expired.fetch_add(closed as u64, Ordering::Relaxed);
        next.map(|end| end.since(now))
    }

    /// How long until the filter of a trust domain becomes too old. Time alone makes it so: no news comes to tell.
    fn end_unknown(&self, now: UnixTime) -> Option<Duration> {
        if self.settings.unknown_status == UnknownStatus::KeepUntilExpiry {
            return None;
        }
        let trust = self.trust.load_full();
        let domains = lock(&self.table).domains();
        let known_for = domains.iter().filter_map(|domain| {
            let left = trust.status_known_for(domain, now)?;
            if left.is_zero() {
                let suspects = lock(&self.table).of_domain(domain);
                self.recheck(suspects);
                // Nobody of it is let in before it is known again.
                return None;
            }
            Some(left)
        });
        known_for.min()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

/// A poisoned lock is taken over: the table's operations do not panic between two steps that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
