//! The publisher of revocation news: signs snapshots, deltas and heartbeats over the set that the ledger's records fold
//! into, and hands them to every stream. What it signs is a function of the ledger, so any replica could have signed it.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mintage_identity::UnixTime;
use mintage_proto::v1::{Revoked, revoked::News};
use mintage_revocation::{Exception, LiveSerial, RevocationError, RevocationKey, RevokedSet, Terms};
use tokio::sync::broadcast;

/// How long signed news may be taken up; whoever comes later gets new news.
const NEWS_LIFETIME: Duration = Duration::from_secs(3600);
/// Largest snapshot that travels inside a stream; larger ones are fetched by reference.
const INLINE_BYTES_MAX: usize = 512 * 1024;
/// News kept for direct subscribers that read slowly; who falls behind starts again from a snapshot.
const WATCH_QUEUE: usize = 256;

/// Signs and remembers what was signed last.
pub(crate) struct Publisher {
    key: RevocationKey,
    epoch: u64,
    latest: Mutex<Latest>,
    news: broadcast::Sender<News>,
}

struct Latest {
    set: RevokedSet,
    exceptions: Vec<Exception>,
    /// The signed snapshot of the set's sequence, once somebody wanted it.
    snapshot: Option<(u64, Vec<u8>)>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    pub(crate) fn new(
        key: RevocationKey,
        epoch: u64,
        set: RevokedSet,
        live: impl Iterator<Item = LiveSerial>,
    ) -> Result<Self, RevocationError> {
        let exceptions = set.exceptions_for(live)?;
        let latest = Mutex::new(Latest {
            set,
            exceptions,
            snapshot: None,
        });
        Ok(Self {
            key,
            epoch,
            latest,
            news: broadcast::Sender::new(WATCH_QUEUE),
        })
    }

    /// The epoch of every signature.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Sequence published last.
    pub(crate) fn sequence(&self) -> u64 {
        self.latest().set.sequence()
    }

    /// Takes up a newer set and returns the signed delta to it; `None` when nothing was revoked since. Every live serial
    /// runs through the new set first, so that none of them is taken for a revoked one.
    pub(crate) fn advance(
        &self,
        set: &RevokedSet,
        live: impl Iterator<Item = LiveSerial>,
        now: UnixTime,
    ) -> Result<Option<News>, RevocationError> {
        let mut latest = self.latest();
        let (from, to) = (latest.set.sequence(), set.sequence());
        if to <= from {
            return Ok(None);
        }
        let exceptions = set.exceptions_since(from, &latest.exceptions, live)?;
        let delta = self.key.sign_delta(set, from, to, &exceptions, &self.terms(now));
        *latest = Latest {
            set: set.clone(),
            exceptions,
            snapshot: None,
        };
        let news = match delta {
            Ok(delta) if delta.len() <= INLINE_BYTES_MAX => News::Delta(delta),
            // A delta that no message holds, or a set that remembers too little for one: followers start over.
            Ok(_) | Err(RevocationError::NoDelta { .. }) => snapshot_news(to, self.signed_snapshot(&mut latest, now)?),
            Err(error) => return Err(error),
        };
        drop(latest);
        let _ = self.news.send(news.clone());
        Ok(Some(news))
    }

    /// A heartbeat: nothing after the published sequence is known at `now`.
    pub(crate) fn heartbeat(&self, now: UnixTime) -> Result<News, RevocationError> {
        let beat = News::Heartbeat(self.key.sign_heartbeat(&self.latest().set, &self.terms(now))?);
        let _ = self.news.send(beat.clone());
        Ok(beat)
    }

    /// What a follower at (`epoch`, `sequence`) needs: a delta where one can be made, else the snapshot, and a heartbeat.
    pub(crate) fn catch_up(&self, epoch: u64, sequence: u64, now: UnixTime) -> Result<Vec<News>, RevocationError> {
        let mut latest = self.latest();
        let to = latest.set.sequence();
        let mut news = Vec::new();
        let knows_all = epoch == self.epoch && sequence == to && sequence > 0;
        if !knows_all {
            let delta = match epoch == self.epoch && sequence > 0 && sequence < to {
                true => self
                    .key
                    .sign_delta(&latest.set, sequence, to, &latest.exceptions, &self.terms(now))
                    .ok(),
                false => None,
            };
            news.push(match delta {
                Some(delta) if delta.len() <= INLINE_BYTES_MAX => News::Delta(delta),
                _ => snapshot_news(to, self.signed_snapshot(&mut latest, now)?),
            });
        }
        news.push(News::Heartbeat(self.key.sign_heartbeat(&latest.set, &self.terms(now))?));
        Ok(news)
    }

    /// The signed snapshot of the published sequence.
    pub(crate) fn snapshot(&self, now: UnixTime) -> Result<Vec<u8>, RevocationError> {
        let mut latest = self.latest();
        self.signed_snapshot(&mut latest, now)
    }

    /// News from now on, for direct subscribers.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    fn signed_snapshot(&self, latest: &mut Latest, now: UnixTime) -> Result<Vec<u8>, RevocationError> {
        let sequence = latest.set.sequence();
        if let Some((_, bytes)) = latest.snapshot.as_ref().filter(|kept| kept.0 == sequence) {
            return Ok(bytes.clone());
        }
        let bytes = self
            .key
            .sign_snapshot(&latest.set, &latest.exceptions, &self.terms(now))?;
        latest.snapshot = Some((sequence, bytes.clone()));
        Ok(bytes)
    }

    /// Forgets the kept snapshot, so that the next one carries a new date; called well inside its lifetime.
    pub(crate) fn refresh(&self) {
        self.latest().snapshot = None;
    }

    fn terms(&self, now: UnixTime) -> Terms {
        Terms {
            epoch: self.epoch,
            this_update: now,
            next_update: now.plus(NEWS_LIFETIME),
        }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        // Replaced whole; a panic elsewhere leaves the former one.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn snapshot_news(sequence: u64, bytes: Vec<u8>) -> News {
    match bytes.len() <= INLINE_BYTES_MAX {
        true => News::Snapshot(bytes),
        false => News::SnapshotRef(sequence),
    }
}

/// News as a message of the Sync stream.
pub(crate) fn revoked(news: News) -> Revoked {
    Revoked { news: Some(news) }
}

#[cfg(test)]
mod tests {
    use mintage_identity::{IssuerKeyId, RevocationReason, Serial, TrustDomain};
    use mintage_revocation::{IssuerCoverage, Revocation, RevokedSerial, SerialKind};

    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_900_000_000);
    const ISSUER: IssuerKeyId = IssuerKeyId::new([7; 32]);

    #[test]
    fn a_delta_that_no_message_holds_is_a_snapshot_by_reference() {
        let mut set = RevokedSet::new(&TrustDomain::parse("dev.test").unwrap());
        let (serials, until) = (SerialKind::Native, None);
        let id = ISSUER;
        set.cover_issuer(1, &IssuerCoverage { id, serials, until }).unwrap();
        let (key, _) = RevocationKey::generate().unwrap();
        let publisher = Publisher::new(key, 1, set.clone(), std::iter::empty()).unwrap();
        let mut next = 0_u128;
        for (records, is_inline) in [(1, true), (4, false)] {
            for _ in 0..records {
                let serials = (0..40_000).map(|_| {
                    next += 1;
                    // An odd factor makes a row of numbers as strewn as serials are.
                    let octets = next
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                        .to_be_bytes();
                    RevokedSerial {
                        issuer: ISSUER,
                        serial: Serial::from_random(octets),
                        not_after: NOW.plus(Duration::from_secs(600)),
                    }
                });
                let revocation = Revocation {
                    at: NOW,
                    serials: serials.collect(),
                    rules: Vec::new(),
                    reason: RevocationReason::Unspecified,
                };
                set.apply_revocation(set.sequence() + 1, &revocation).unwrap();
            }
            let news = publisher.advance(&set, std::iter::empty(), NOW).unwrap().unwrap();
            match is_inline {
                true => assert!(matches!(news, News::Delta(_))),
                false => assert!(matches!(news, News::SnapshotRef(sequence) if sequence == set.sequence())),
            }
        }
    }
}
