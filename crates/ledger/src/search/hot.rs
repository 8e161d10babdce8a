//! What an issuance asks for each certificate, answered at once: is this serial, this key or this request live?
//!
//! A table of tags, each with the latest end of validity it was seen with. Nearly every question is about something
//! that is not there, and ends here; a tag that is there only means "look", and the columns decide.

use std::collections::HashMap;

use mintage_identity::UnixTime;

use super::chunk::Row;

/// Tags of certificates that ended so long ago are forgotten: more than any clock here may be off.
const FORGET_AFTER_SECONDS: i64 = 900;
/// The table is swept when it has grown to twice what the last sweep left, and not before it is this large.
const SWEEP_MIN: usize = 4096;

/// Which question a tag belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Serial = 1,
    Key = 2,
    Request = 3,
}

/// Tags of what may be live.
#[derive(Debug, Default)]
pub(super) struct Hot {
    // The tags can be chosen by agents, so the hasher is the keyed one.
    ends: HashMap<(u8, u64), u32>,
    swept: usize,
    latest_s: i64,
}

/// Eight octets as a tag.
pub(super) fn tag(octets: &[u8]) -> u64 {
    let mut eight = [0; 8];
    let len = octets.len().min(8);
    eight[..len].copy_from_slice(&octets[octets.len() - len..]);
    u64::from_be_bytes(eight)
}

impl Hot {
    /// Takes in a record's certificate.
    pub(super) fn add(&mut self, row: &Row) {
        let Some(leaf) = &row.leaf else { return };
        self.latest_s = self.latest_s.max(UnixTime::from_millis(row.time_ms).seconds());
        let end = u32::try_from(leaf.not_after.seconds().max(0)).unwrap_or(u32::MAX);
        self.put(Of::Serial, tag(leaf.serial.padded()), end);
        self.put(Of::Key, tag(leaf.spki_sha256.as_bytes()), end);
        if row.request != 0 {
            self.put(Of::Request, row.request.into(), end);
        }
        if self.ends.len() >= SWEEP_MIN.max(2 * self.swept) {
            let oldest = self.latest_s.saturating_sub(FORGET_AFTER_SECONDS);
            self.ends.retain(|_, end| i64::from(*end) >= oldest);
            self.swept = self.ends.len();
        }
    }

    fn put(&mut self, of: Of, tag: u64, end: u32) {
        let known = self.ends.entry((of as u8, tag)).or_default();
        *known = end.max(*known);
    }

    /// True when a live certificate may have the tag; false when none has.
    pub(super) fn may_be_live(&self, of: Of, tag: u64, now: UnixTime) -> bool {
        let now_s = now.seconds();
        // A question about the past is not for this table.
        now_s < self.latest_s.saturating_sub(FORGET_AFTER_SECONDS)
            || self
                .ends
                .get(&(of as u8, tag))
                .is_some_and(|end| i64::from(*end) >= now_s)
    }
}
