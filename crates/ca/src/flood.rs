//! Floods of frames. HTTP/2 lets a peer send pings, settings, priorities and new streams without end (RFC 9113, section
//! 10.5), and the server behind answers each of them, be it by refusing the stream, at the expense of everybody else. Here
//! they are counted as they pass; empty DATA, resets and header blocks without end are limited by the server itself.

use std::time::{Duration, Instant};

use crate::limits::{CALLS_BURST, CALLS_PER_SECOND, CONTROL_FRAMES_BURST, CONTROL_FRAMES_PER_SECOND};

/// Octets before the first frame: the client's connection preface.
const PREFACE_OCTETS: usize = 24;
/// Octets of a frame's head: length, type, flags, stream (RFC 9113, section 4.1).
const HEAD_OCTETS: usize = 9;
/// Types of frames that go on with a stream, or grant room for its answer, are not counted here.
const DATA: u8 = 0;
/// A new call, which is counted as such; all other types are control frames.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Follows the frames of one connection by their heads.
pub(crate) struct FrameMeter {
    head: [u8; HEAD_OCTETS],
    have: usize,
    /// Octets that pass before the next head.
    skip: usize,
    calls: Allowance,
    control: Allowance,
}

/// A number that may come at once, and so many more every second.
struct Allowance {
    burst: u32,
    per_second: u64,
    /// What is left of it, as of `at`.
    left: u32,
    at: Instant,
}

impl Allowance {
    fn new(burst: u32, per_second: u64, now: Instant) -> Self {
        Self {
            burst,
            per_second,
            left: burst,
            at: now,
        }
    }

    fn takes_one(&mut self, now: Instant) -> bool {
        if self.left == 0 {
            let seconds = now.saturating_duration_since(self.at).as_secs();
            let earned = seconds.saturating_mul(self.per_second);
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(self.burst);
            self.at += Duration::from_secs(seconds);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

impl FrameMeter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD_OCTETS],
            have: 0,
            skip: PREFACE_OCTETS,
            calls: Allowance::new(CALLS_BURST, CALLS_PER_SECOND, now),
            control: Allowance::new(CONTROL_FRAMES_BURST, CONTROL_FRAMES_PER_SECOND, now),
        }
    }

    /// Takes note of octets that came in; false once they are a flood.
    pub(crate) fn passes(&mut self, mut octets: &[u8], now: Instant) -> bool {
        while !octets.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(octets.len());
                self.skip -= skipped;
                octets = &octets[skipped..];
                continue;
            }
            let taken = (HEAD_OCTETS - self.have).min(octets.len());
            self.head[self.have..self.have + taken].copy_from_slice(&octets[..taken]);
            self.have += taken;
            octets = &octets[taken..];
            if self.have == HEAD_OCTETS {
                let [a, b, c, kind, ..] = self.head;
                self.have = 0;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                if !self.affords(kind, now) {
                    return false;
                }
            }
        }
        true
    }

    fn affords(&mut self, kind: u8, now: Instant) -> bool {
        match kind {
            DATA | RST_STREAM | GOAWAY | WINDOW_UPDATE | CONTINUATION => true,
            HEADERS => self.calls.takes_one(now),
            _ => self.control.takes_one(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &[0; 4], vec![0; payload].as_slice()].concat()
    }

    fn metered(now: Instant) -> FrameMeter {
        let mut meter = FrameMeter::new(now);
        assert!(meter.passes(&[b'x'; PREFACE_OCTETS], now));
        meter
    }

    #[test]
    fn a_burst_passes_and_one_frame_more_is_a_flood() {
        let (now, burst) = (Instant::now(), CONTROL_FRAMES_BURST as usize);
        for kind in [PING, 4, 2, 0xbb] {
            assert!(metered(now).passes(&frame(kind, 8).repeat(burst), now), "{kind}");
            assert!(!metered(now).passes(&frame(kind, 8).repeat(burst + 1), now), "{kind}");
        }
        // Calls have an allowance of their own.
        let mut meter = metered(now);
        assert!(meter.passes(&frame(HEADERS, 8).repeat(CALLS_BURST as usize), now));
        assert!(meter.passes(&frame(PING, 8), now));
        assert!(!meter.passes(&frame(HEADERS, 8), now));
        // However the octets are cut.
        let mut meter = metered(now);
        let octets = frame(PING, 8).repeat(burst);
        assert!(octets.chunks(7).all(|piece| meter.passes(piece, now)));
        assert!(!meter.passes(&frame(PING, 8), now));
    }

    #[test]
    fn frames_of_open_streams_are_not_counted_and_payloads_are_not_read_as_frames() {
        let now = Instant::now();
        let mut meter = metered(now);
        // A payload that looks like pings from end to end.
        let inside = frame(PING, 0).repeat(1_000);
        let length = u32::try_from(inside.len()).unwrap().to_be_bytes();
        let data = [&length[1..], &[DATA, 0, 0, 0, 0, 1], &inside].concat();
        for _ in 0..3 {
            assert!(meter.passes(&data, now));
            for kind in [RST_STREAM, GOAWAY, WINDOW_UPDATE, CONTINUATION] {
                assert!(meter.passes(&frame(kind, 4).repeat(10_000), now));
            }
        }
        assert!(meter.passes(&frame(PING, 8).repeat(CONTROL_FRAMES_BURST as usize), now));
        assert!(!meter.passes(&frame(PING, 8), now));
    }

    #[test]
    fn a_connection_that_lives_long_is_never_short_of_keepalives() {
        let mut now = Instant::now();
        let mut meter = metered(now);
        for _ in 0..100_000 {
            now += Duration::from_secs(1);
            assert!(meter.passes(&frame(PING, 8), now));
        }
        // Silence earns no more than one burst.
        now += Duration::from_secs(1_000_000);
        let burst = CONTROL_FRAMES_BURST as usize;
        let ping = frame(PING, 8);
        let passed = (0..4 * burst).take_while(|_| meter.passes(&ping, now)).count();
        assert!((burst..=2 * burst).contains(&passed), "{passed}");
    }
}
