//! Certificates whose delivery ended. The CA is told, and revokes them: a folder that nobody keeps any more may be read by
//! anybody who comes upon it. They are told again on each new stream until they have ended by themselves, since nothing
//! answers; the CA passes over what it has revoked.

use std::collections::BTreeMap;

use mintage_identity::{Serial, UnixTime};
use mintage_proto::v1::{self, agent_message};

use super::{Core, SlotKey};
use crate::limits::{RELEASES_MAX, RELEASES_PER_MESSAGE_MAX};

/// What was released and may still be good.
#[derive(Debug, Default)]
pub(super) struct Releases {
    waiting: BTreeMap<Serial, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    until: UnixTime,
    /// On the stream in use.
    told: bool,
}

impl Releases {
    /// Adds certificates, each with its end.
    pub(super) fn add(&mut self, released: impl IntoIterator<Item = (Serial, UnixTime)>) {
        for (serial, until) in released {
            if self.waiting.len() >= RELEASES_MAX {
                tracing::warn!(%serial, "more deliveries ended than can be told; this certificate is good until it ends");
                continue;
            }
            self.waiting.entry(serial).or_insert(Waiting { until, told: false });
        }
    }

    /// Another stream is open.
    pub(super) fn up(&mut self) {
        self.waiting.values_mut().for_each(|waiting| waiting.told = false);
    }

    /// The next to tell, as many as one message holds; what has ended is forgotten.
    fn next(&mut self, now: UnixTime) -> Vec<Serial> {
        self.waiting.retain(|_, waiting| waiting.until >= now);
        let untold = self.waiting.iter().filter(|(_, waiting)| !waiting.told);
        untold
            .map(|(serial, _)| *serial)
            .take(RELEASES_PER_MESSAGE_MAX)
            .collect()
    }

    fn told(&mut self, serials: &[Serial]) {
        for serial in serials {
            if let Some(waiting) = self.waiting.get_mut(serial) {
                waiting.told = true;
            }
        }
    }
}

impl Core {
    /// Everything of a slot that may be good: in place, on its way there, or just replaced.
    pub(super) fn release_slot(&mut self, key: &SlotKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let coming = slot.unplaced.as_ref().map(|unplaced| &unplaced.held);
        let pairs = slot.held.iter().chain(coming);
        let released: Vec<_> = pairs
            .map(|held| (*held.serial(), held.not_after()))
            .chain(slot.former)
            .collect();
        self.releases.add(released);
    }

    /// Tells the CA, as far as the stream takes it.
    pub(super) fn tell_released(&mut self) {
        let now = self.shared.wall();
        while self.upstream.is_some() {
            let serials = self.releases.next(now);
            if serials.is_empty() {
                return;
            }
            let release = v1::Release {
                serials: serials.iter().map(|serial| serial.octets().to_vec()).collect(),
            };
            if !self.send(agent_message::Message::Release(release)) {
                return;
            }
            tracing::info!(
                certificates = serials.len(),
                "told the CA of certificates whose delivery ended"
            );
            self.releases.told(&serials);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_a_stream_until_it_has_ended_and_there_is_a_limit() {
        let mut releases = Releases::default();
        let serial = |number: u64| Serial::from_random(u128::from(number).to_be_bytes());
        let end = UnixTime::from_seconds(100);
        let count = RELEASES_MAX as u64 + 5;
        releases.add((0..count).map(|number| (serial(number), end)));
        let mut told = 0;
        loop {
            let next = releases.next(end);
            if next.is_empty() {
                break;
            }
            assert!(next.len() <= RELEASES_PER_MESSAGE_MAX);
            told += next.len();
            releases.told(&next);
        }
        assert_eq!(told, RELEASES_MAX);
        releases.up();
        assert_eq!(
            releases.next(end).len(),
            RELEASES_PER_MESSAGE_MAX,
            "another stream is told anew"
        );
        assert!(releases.next(UnixTime::from_seconds(101)).is_empty(), "they have ended");
    }
}
