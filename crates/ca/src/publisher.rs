//! The publisher of revocation news: signs snapshots, deltas and heartbeats over the set that the ledger's records fold
//! into, and hands them to every stream. What it signs is a function of the ledger, so any replica could have signed it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use mintage_identity::UnixTime;
use mintage_proto::v1::{Revoked, revoked::News};
use mintage_revocation::{LiveSerial, RevocationError, RevocationKey, RevokedSet};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::{
    excepted::Live,
    limits::{CATCH_UP_HEARTBEAT_AGE_MAX, NEWS_INLINE_BYTES_MAX, RELEASED_INLINE_MAX, SNAPSHOT_AGE_MAX, WATCH_QUEUE},
    published::{Published, Signed, Signer},
};

/// Signs and remembers what was signed last.
pub(crate) struct Publisher {
    signer: Arc<Signer>,
    /// Replaced whole, by the one task that follows the state.
    latest: ArcSwap<Published>,
    /// When what was published last was last known to be all that is revoked (milliseconds since 1970).
    whole: AtomicI64,
    news: broadcast::Sender<News>,
    stop: CancellationToken,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("latest", &self.latest.load())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Publishes a set that is whole at `now`.
    ///
    /// # Errors
    /// A limit of the format is reached.
    pub(crate) fn new(
        key: RevocationKey,
        epoch: u64,
        set: RevokedSet,
        live: impl Iterator<Item = LiveSerial>,
        now: UnixTime,
    ) -> Result<Self, RevocationError> {
        let exceptions = set.exceptions_for(live)?;
        let signer = Arc::new(Signer { key, epoch });
        Ok(Self {
            latest: ArcSwap::from_pointee(Published::new(signer.clone(), set, exceptions)),
            signer,
            whole: AtomicI64::new(now.millis()),
            news: broadcast::Sender::new(WATCH_QUEUE),
            stop: CancellationToken::new(),
        })
    }

    /// The epoch of every signature.
    pub(crate) fn epoch(&self) -> u64 {
        self.signer.epoch
    }

    /// Sequence published last.
    pub(crate) fn sequence(&self) -> u64 {
        self.latest.load().sequence()
    }

    /// What was published last.
    pub(crate) fn latest(&self) -> Arc<Published> {
        self.latest.load_full()
    }

    /// The time that news of the published set may carry, when `revoked` is the sequence of all that was revoked by `now`: a
    /// reader takes a date for the word that nothing newer was known then. Of a set that is behind, it is when it was whole.
    pub(crate) fn whole_at(&self, revoked: u64, now: UnixTime) -> UnixTime {
        if revoked <= self.sequence() {
            self.whole.store(now.millis(), Ordering::Relaxed);
            return now;
        }
        UnixTime::from_millis(self.whole.load(Ordering::Relaxed)).min(now)
    }

    /// Takes up a newer set and returns the signed delta to it; `None` when nothing was revoked since. Every live serial
    /// runs through the new set first, so that none of them is taken for a revoked one: through all of it that was
    /// revoked since `live` was last whole, so that what was missed then is made good. Blocks while it signs.
    ///
    /// # Errors
    /// A limit of the format is reached; what was published stays, and the same set may be tried again.
    pub(crate) fn advance(
        &self,
        set: &RevokedSet,
        live: Live<impl Iterator<Item = LiveSerial>>,
        now: UnixTime,
    ) -> Result<Option<News>, RevocationError> {
        let latest = self.latest();
        let (from, to) = (latest.sequence(), set.sequence());
        if to <= from {
            return Ok(None);
        }
        let since = latest.excepted_to();
        let exceptions = set.exceptions_since(since, latest.exceptions(), live.serials)?;
        let excepted_to = if live.is_whole { to } else { since };
        let next = Arc::new(Published::new(self.signer.clone(), set.clone(), exceptions).excepted(excepted_to));
        // A delta that no message holds, or a set that remembers too little for one: followers start over. Only what can be
        // told is published: nobody would be told of the rest later.
        let news = delta_or_snapshot(&next, from, now)?;
        let gone = latest.serial_count().saturating_sub(next.serial_count());
        self.latest.store(next);
        let _ = self.news.send(news.clone());
        if gone > RELEASED_INLINE_MAX {
            // What has ended since is given back by somebody that nobody waits for.
            let release = std::thread::Builder::new().name("release".to_owned());
            // Where no thread can be had it is given back here.
            let _ = release.spawn(move || drop(latest));
        }
        Ok(Some(news))
    }

    /// A heartbeat: nothing after the published sequence is known at `now`.
    pub(crate) fn heartbeat(&self, now: UnixTime) -> Result<News, RevocationError> {
        let beat = News::Heartbeat(self.latest().heartbeat(now, Duration::ZERO)?.bytes);
        let _ = self.news.send(beat.clone());
        Ok(beat)
    }

    /// What a follower at (`epoch`, `sequence`) needs: a delta where one can be made, else the snapshot, and a heartbeat.
    pub(crate) fn catch_up(&self, epoch: u64, sequence: u64, now: UnixTime) -> Result<Vec<News>, RevocationError> {
        let latest = self.latest();
        let is_of_this_epoch = epoch == self.epoch();
        let mut news = Vec::new();
        if !is_of_this_epoch || sequence != latest.sequence() || sequence == 0 {
            let from = if is_of_this_epoch { sequence } else { 0 };
            news.push(delta_or_snapshot(&latest, from, now)?);
        }
        news.push(News::Heartbeat(
            latest.heartbeat(now, CATCH_UP_HEARTBEAT_AGE_MAX)?.bytes,
        ));
        Ok(news)
    }

    /// The signed snapshot of the published sequence.
    pub(crate) fn snapshot(&self, now: UnixTime) -> Result<Signed, RevocationError> {
        self.latest().snapshot(now, SNAPSHOT_AGE_MAX)
    }

    /// News from now on, for direct subscribers.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Ends every subscriber's stream: the CA stops.
    pub(crate) fn dismiss(&self) {
        self.stop.cancel();
    }

    /// True when the CA stops.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Completes when every subscriber's stream is to end.
    pub(crate) async fn dismissed(&self) {
        self.stop.cancelled().await;
    }
}

fn delta_or_snapshot(of: &Published, from: u64, now: UnixTime) -> Result<News, RevocationError> {
    if let Some(delta) = of.delta(from, now)? {
        return Ok(News::Delta(delta.bytes));
    }
    let bytes = of.snapshot(now, SNAPSHOT_AGE_MAX)?.bytes;
    Ok(match bytes.len() <= NEWS_INLINE_BYTES_MAX {
        true => News::Snapshot(bytes),
        false => News::SnapshotRef(of.sequence()),
    })
}

/// News as a message of the Sync stream.
pub(crate) fn revoked(news: News) -> Revoked {
    Revoked { news: Some(news) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::tests::{NOW, covering, revoke};

    fn nobody() -> Live<impl Iterator<Item = LiveSerial>> {
        let serials = std::iter::empty();
        Live {
            serials,
            is_whole: true,
        }
    }

    #[test]
    fn news_of_a_set_that_is_behind_carry_the_time_when_it_was_whole() {
        let mut set = covering();
        revoke(&mut set, 0, 1);
        let (key, _) = RevocationKey::generate().unwrap();
        let publisher = Publisher::new(key, 1, set.clone(), std::iter::empty(), NOW).unwrap();
        let after = |seconds| NOW.plus(Duration::from_secs(seconds));
        let before = set.sequence();
        assert_eq!(publisher.whole_at(before, after(5)), after(5));
        revoke(&mut set, 1, 1);
        for seconds in [6, 600] {
            assert_eq!(publisher.whole_at(set.sequence(), after(seconds)), after(5));
        }
        assert_eq!(publisher.whole_at(set.sequence(), NOW), NOW, "the clock was set back");
        publisher.advance(&set, nobody(), after(601)).unwrap().unwrap();
        assert_eq!(publisher.whole_at(set.sequence(), after(601)), after(601));
    }

    #[test]
    fn a_delta_that_no_message_holds_is_a_snapshot_by_reference() {
        let mut set = covering();
        let (key, _) = RevocationKey::generate().unwrap();
        let publisher = Publisher::new(key, 1, set.clone(), std::iter::empty(), NOW).unwrap();
        let mut next = 0;
        for (records, is_inline) in [(1, true), (4, false)] {
            for _ in 0..records {
                revoke(&mut set, next, 40_000);
                next += 40_000;
            }
            let news = publisher.advance(&set, nobody(), NOW).unwrap().unwrap();
            match is_inline {
                true => assert!(matches!(news, News::Delta(_))),
                false => assert!(matches!(news, News::SnapshotRef(sequence) if sequence == set.sequence())),
            }
        }
    }
}
