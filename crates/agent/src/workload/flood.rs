//! Floods of frames. A caller may send pings, settings and priorities without end (RFC 9113, section 10.5), and each is
//! answered at the expense of everybody else. They are counted by their heads. Streams, empty DATA, resets and header blocks
//! without end are limited by the server itself; calls are not counted, since a proxy asks about each of its requests.

use std::time::{Duration, Instant};

use crate::limits::{CONTROL_FRAMES_BURST, CONTROL_FRAMES_PER_SECOND};

/// Types of frames that begin a call, go on with one, or grant room for its answer; all others are control frames.
const OF_CALLS: [u8; 6] = [DATA, HEADERS, RST_STREAM, GOAWAY, WINDOW_UPDATE, CONTINUATION];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// What one connection may send.
pub(super) struct Meter {
    left: u32,
    /// When what is left was reckoned.
    at: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: CONTROL_FRAMES_BURST,
            at: now,
        }
    }

    /// Takes note of a frame of this type; false once they are a flood.
    pub(super) fn affords(&mut self, kind: u8, now: Instant) -> bool {
        if OF_CALLS.contains(&kind) {
            return true;
        }
        if self.left == 0 {
            let seconds = now.saturating_duration_since(self.at).as_secs();
            let earned = seconds.saturating_mul(u64::from(CONTROL_FRAMES_PER_SECOND));
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(CONTROL_FRAMES_BURST);
            self.at += Duration::from_secs(seconds);
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_one_frame_more_is_a_flood_and_time_makes_room() {
        let now = Instant::now();
        for kind in [2, 4, 6, 0xbb] {
            let mut meter = Meter::new(now);
            assert!((0..CONTROL_FRAMES_BURST).all(|_| meter.affords(kind, now)), "{kind}");
            assert!(!meter.affords(kind, now), "{kind}");
            assert!(OF_CALLS.iter().all(|kind| meter.affords(*kind, now)));
            let later = now + Duration::from_secs(2);
            assert!(
                (0..2 * CONTROL_FRAMES_PER_SECOND).all(|_| meter.affords(kind, later)),
                "{kind}"
            );
            assert!(!meter.affords(kind, later), "{kind}");
        }
    }
}
