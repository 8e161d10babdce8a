//! The signs of life of a filter: what heartbeats move while its serials stay.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mintage_identity::UnixTime;
use mintage_sys::map::{Groups, ReadMap, Words};

use crate::{
    limits::{FRESH_FOR, FUTURE_SKEW},
    map_layout,
};

/// The heartbeat, then the horizon.
const PULSE_WORDS: usize = 2;

/// What heartbeats move while the filter stays: the last sign of life and the horizon. A replica of this process moves its own;
/// that of a map is moved by the map's writer. Where there is no filter there is neither.
#[derive(Clone)]
pub(crate) struct Pulse {
    words: Words,
    /// The same words, for look-ups.
    both: Groups<PULSE_WORDS>,
}

/// What all questions of a moment share.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) is_fresh: bool,
    pub(crate) horizon: UnixTime,
}

impl Moment {
    /// True when a certificate that ends then may be good: the filter is fresh, and the horizon has not passed it.
    #[inline(always)]
    pub(crate) fn lets_pass(self, not_after: UnixTime) -> bool {
        self.is_fresh && not_after >= self.horizon
    }
}

impl Pulse {
    /// The pulse of what is not there.
    pub(crate) fn none() -> Self {
        Self::of(Words::zeroed(0))
    }

    /// A pulse of this process.
    pub(crate) fn new(heartbeat: UnixTime, horizon: UnixTime) -> Self {
        let pulse = Self::of(Words::zeroed(PULSE_WORDS));
        for (word, time) in pulse.words.own().into_iter().flatten().zip([heartbeat, horizon]) {
            word.store(time.millis() as u64, Ordering::Release);
        }
        pulse
    }

    /// The pulse of a map; `None` when the map has no room for it.
    pub(crate) fn of_map(map: &Arc<ReadMap>) -> Option<Self> {
        Words::of_map(map, map_layout::HEARTBEAT, PULSE_WORDS).map(Self::of)
    }

    fn of(words: Words) -> Self {
        let both = Groups::of(&words, 1);
        Self { words, both }
    }

    /// Raises both, which never go back: except that a heartbeat which lies in the future at `now`, because the clock was
    /// ahead when it came, gives way. A mapped pulse is not ours to move.
    pub(crate) fn raise(&self, heartbeat: UnixTime, horizon: UnixTime, now: UnixTime) {
        let raise = |word: &AtomicU64, time: UnixTime, most: UnixTime| {
            let later = |held: u64| {
                let held = held as i64;
                (time.millis() > held || held > most.millis()).then_some(time.millis() as u64)
            };
            // An error says that what is held is as late already.
            let _ = word.fetch_update(Ordering::Release, Ordering::Relaxed, later);
        };
        if let Some([held_heartbeat, held_horizon]) = self.words.own() {
            raise(held_heartbeat, heartbeat, now.plus(FUTURE_SKEW));
            raise(held_horizon, horizon, UnixTime::from_millis(i64::MAX));
        }
    }

    /// `None` where there is no filter.
    pub(crate) fn heartbeat(&self) -> Option<UnixTime> {
        self.both().map(|(heartbeat, _)| heartbeat)
    }

    /// `None` where there is no filter.
    pub(crate) fn horizon(&self) -> Option<UnixTime> {
        self.both().map(|(_, horizon)| horizon)
    }

    #[inline(always)]
    fn both(&self) -> Option<(UnixTime, UnixTime)> {
        let [heartbeat, horizon] = self.both.get().first()?;
        let time = |word: u64| UnixTime::from_millis(word as i64);
        Some((
            time(heartbeat.load(Ordering::Acquire)),
            time(horizon.load(Ordering::Acquire)),
        ))
    }

    /// What it says at `now`; `None` where there is no filter. Whoever reads the filter afterwards sees all that this heartbeat
    /// vouches for.
    #[inline(always)]
    pub(crate) fn at(&self, now: UnixTime) -> Option<Moment> {
        let (heartbeat, horizon) = self.both()?;
        let is_fresh = is_fresh(heartbeat, now);
        Some(Moment { is_fresh, horizon })
    }

    /// The horizon, when the heartbeat is fresh: what a certificate that may be good has not passed.
    #[inline(always)]
    pub(crate) fn fresh_horizon(&self, now: UnixTime) -> Option<UnixTime> {
        let (heartbeat, horizon) = self.both()?;
        is_fresh(heartbeat, now).then_some(horizon)
    }
}

/// The age of a heartbeat held against [`FRESH_FOR`] and [`FUTURE_SKEW`]. Its bounds depend on `now` alone, which many questions
/// share.
#[inline(always)]
fn is_fresh(heartbeat: UnixTime, now: UnixTime) -> bool {
    const FRESH_MS: i64 = FRESH_FOR.as_millis() as i64;
    const SKEW_MS: i64 = FUTURE_SKEW.as_millis() as i64;
    let (after, latest) = (
        now.millis().saturating_sub(FRESH_MS),
        now.millis().saturating_add(SKEW_MS),
    );
    heartbeat.millis() > after && heartbeat.millis() <= latest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_never_goes_back() {
        let time = UnixTime::from_millis;
        let pulse = Pulse::new(time(-5), time(i64::MIN));
        pulse.raise(time(-6), time(-7), time(0));
        assert_eq!((pulse.heartbeat(), pulse.horizon()), (Some(time(-5)), Some(time(-7))));
        pulse.raise(time(3), time(-8), time(3));
        assert_eq!((pulse.heartbeat(), pulse.horizon()), (Some(time(3)), Some(time(-7))));
    }

    #[test]
    fn a_heartbeat_of_the_future_gives_way_and_one_within_the_skew_stays() {
        let time = UnixTime::from_millis;
        let pulse = Pulse::new(time(100_000), time(0));
        pulse.raise(time(39_000), time(0), time(40_000));
        assert_eq!(pulse.heartbeat(), Some(time(100_000)), "clocks may differ by so much");
        pulse.raise(time(39_000), time(0), time(39_999));
        assert_eq!(pulse.heartbeat(), Some(time(39_000)));
        let none = Pulse::none();
        none.raise(time(1), time(0), time(1));
        assert!(none.heartbeat().is_none() && none.at(time(1)).is_none() && none.fresh_horizon(time(1)).is_none());
    }

    #[test]
    fn a_heartbeat_is_fresh_for_a_minute_on_either_side() {
        let at = |heartbeat, now| is_fresh(UnixTime::from_millis(heartbeat), UnixTime::from_millis(now));
        assert!(at(0, 0) && at(0, 59_999) && at(60_000, 0));
        assert!(!at(0, 60_000) && !at(60_001, 0));
        assert!(!at(i64::MIN, i64::MAX) && !at(i64::MAX, i64::MIN) && !at(i64::MIN + 10, i64::MAX));
    }
}
