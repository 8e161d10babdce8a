//! Floods of frames. HTTP/2 lets a peer send pings, settings, priorities and new streams without end (RFC 9113, section
//! 10.5), and the server behind answers each of them, be it by refusing the stream, at the expense of everybody else. Here
//! they are counted as they pass; empty DATA, resets and header blocks without end are limited by the server itself.

use std::time::{Duration, Instant};

use crate::limits::{COUNTED_FRAMES_BURST, COUNTED_FRAMES_PER_SECOND};

/// Octets before the first frame: the client's connection preface.
const PREFACE_OCTETS: usize = 24;
/// Octets of a frame's head: length, type, flags, stream (RFC 9113, section 4.1).
const HEAD_OCTETS: usize = 9;
/// Types of frames that go on with a stream, or grant room for its answer; all others are counted.
const DATA: u8 = 0;
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
    /// Frames that may still come, as of `at`.
    left: u32,
    at: Instant,
}

impl FrameMeter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD_OCTETS],
            have: 0,
            skip: PREFACE_OCTETS,
            left: COUNTED_FRAMES_BURST,
            at: now,
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
        if matches!(kind, DATA | RST_STREAM | GOAWAY | WINDOW_UPDATE | CONTINUATION) {
            return true;
        }
        if self.left == 0 {
            let seconds = now.saturating_duration_since(self.at).as_secs();
            let earned = seconds.saturating_mul(COUNTED_FRAMES_PER_SECOND);
            self.left = u32::try_from(earned).unwrap_or(u32::MAX).min(COUNTED_FRAMES_BURST);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: u8 = 1;
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
        let (now, burst) = (Instant::now(), COUNTED_FRAMES_BURST as usize);
        assert!(metered(now).passes(&frame(PING, 8).repeat(burst), now));
        for kind in [HEADERS, PING, 4, 2, 0xbb] {
            assert!(!metered(now).passes(&frame(kind, 8).repeat(burst + 1), now), "{kind}");
        }
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
        assert!(meter.passes(&frame(PING, 8).repeat(COUNTED_FRAMES_BURST as usize), now));
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
        let burst = COUNTED_FRAMES_BURST as usize;
        let ping = frame(PING, 8);
        let passed = (0..4 * burst).take_while(|_| meter.passes(&ping, now)).count();
        assert!((burst..=2 * burst).contains(&passed), "{passed}");
    }
}
