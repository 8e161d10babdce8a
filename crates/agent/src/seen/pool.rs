//! What waits to be told to the CA, and what was told: a bounded, even sample of each few seconds, each certificate once
//! in a while. Pure: time since boot and random draws are arguments.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use mintage_identity::UnixTime;

use super::{Fingerprint, SeenUse};
use crate::{
    limits::{SEEN_AGAIN_AFTER, SEEN_BATCH_MAX, SEEN_EVERY, SEEN_TOLD_MAX},
    rotation::Jitter,
};

/// The pool.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    waiting: Vec<SeenUse>,
    /// Different certificates offered since the last batch, of which those that wait are an even sample.
    offered: u64,
    /// No batch before this time.
    not_before: Duration,
    /// When each was told last, and the order in which they were.
    told: HashMap<Fingerprint, Duration>,
    order: VecDeque<(Fingerprint, Duration)>,
}

/// What became of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits to be told.
    Taken,
    /// It waits already, or was told a short while ago.
    Known,
    /// There are more than are told: the sample is without this one, or without another in its place.
    Sampled,
}

impl Pool {
    /// Whether this certificate need not be looked at: it waits, or was told a short while ago.
    pub(crate) fn knows(&self, fingerprint: &Fingerprint, now: Duration) -> bool {
        let waits = self.waiting.iter().any(|seen| seen.fingerprint == *fingerprint);
        let told = self.told.get(fingerprint);
        waits || told.is_some_and(|at| now.saturating_sub(*at) < SEEN_AGAIN_AFTER)
    }

    /// Offers a certificate for the next batch.
    pub(crate) fn offer(&mut self, seen: SeenUse, now: Duration, draw: Jitter) -> Offered {
        if self.knows(&seen.fingerprint, now) {
            return Offered::Known;
        }
        self.offered += 1;
        if self.waiting.len() < SEEN_BATCH_MAX {
            self.waiting.push(seen);
            return Offered::Taken;
        }
        // Reservoir sampling: each that was offered has the same chance to be among those that are told.
        let place = self.offered.saturating_mul(u64::from(draw.0)) >> 16;
        if let Some(place) = usize::try_from(place)
            .ok()
            .and_then(|place| self.waiting.get_mut(place))
        {
            *place = seen;
        }
        Offered::Sampled
    }

    /// When the next batch may go; `None` when nothing waits.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(self.not_before)
    }

    /// The batch that is due; what has expired meanwhile is left out, since no verifier takes it any more.
    pub(crate) fn take(&mut self, now: Duration, wall: UnixTime) -> Vec<SeenUse> {
        if now < self.not_before || self.waiting.is_empty() {
            return Vec::new();
        }
        let mut batch = std::mem::take(&mut self.waiting);
        batch.retain(|seen| seen.peer.not_after() > wall);
        self.offered = 0;
        batch
    }

    /// The batch went out.
    pub(crate) fn told(&mut self, batch: &[SeenUse], now: Duration) {
        self.not_before = now + SEEN_EVERY;
        for seen in batch {
            self.told.insert(seen.fingerprint, now);
            self.order.push_back((seen.fingerprint, now));
        }
        while self.order.len() > SEEN_TOLD_MAX
            || self
                .order
                .front()
                .is_some_and(|(_, at)| now.saturating_sub(*at) >= SEEN_AGAIN_AFTER)
        {
            let Some((oldest, at)) = self.order.pop_front() else {
                break;
            };
            if self.told.get(&oldest) == Some(&at) {
                self.told.remove(&oldest);
            }
        }
    }

    /// The batch could not go out: it waits again, before whatever came meanwhile.
    pub(crate) fn put_back(&mut self, batch: Vec<SeenUse>, now: Duration) {
        self.not_before = now + SEEN_EVERY;
        self.offered += batch.len() as u64;
        let later = std::mem::replace(&mut self.waiting, batch);
        self.waiting.extend(later);
        self.waiting.truncate(SEEN_BATCH_MAX);
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
