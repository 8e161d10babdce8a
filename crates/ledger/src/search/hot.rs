//! What an issuance asks for each certificate, answered at once: is this serial, this key or this request live?
//!
//! Tables of four-octet tags, each with the latest end of validity it was seen with. Nearly every question is about
//! something that is not there, and ends here; a tag that is there only means "look", and the columns decide.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use mintage_identity::UnixTime;

use super::chunk::{Row, serial_tag, spki_tag};

/// Tags of certificates that ended so long ago are forgotten: more than any clock here may be off.
const FORGET_AFTER_SECONDS: i64 = 900;
/// The tables are swept when they have grown to twice what the last sweep left, and not before they are this large.
const SWEEP_MIN: usize = 4096;

/// Which question a tag belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Serial,
    Key,
    Request,
}

/// Tags of what may be live.
#[derive(Debug, Default)]
pub(super) struct Hot {
    serials: Ends,
    keys: Ends,
    requests: Ends,
    swept: usize,
    latest_s: i64,
}

/// The end of validity for each tag, in seconds. The hasher has a secret of this process: tags can be chosen by agents, who
/// must not know which of them meet in the table.
type Ends = HashMap<u32, u32, RandomState>;

impl Hot {
    /// Takes in a record's certificate.
    pub(super) fn add(&mut self, row: &Row) {
        let Some(leaf) = &row.leaf else { return };
        self.latest_s = self.latest_s.max(UnixTime::from_millis(row.time_ms).seconds());
        let end = u32::try_from(leaf.not_after.seconds().max(0)).unwrap_or(u32::MAX);
        put(&mut self.serials, serial_tag(&leaf.serial), end);
        put(&mut self.keys, spki_tag(leaf.spki_sha256.as_bytes()), end);
        if row.request != 0 {
            put(&mut self.requests, row.request, end);
        }
        if self.serials.len() >= SWEEP_MIN.max(2 * self.swept) {
            let oldest = self.latest_s.saturating_sub(FORGET_AFTER_SECONDS);
            for ends in [&mut self.serials, &mut self.keys, &mut self.requests] {
                ends.retain(|_, end| i64::from(*end) >= oldest);
            }
            self.swept = self.serials.len();
        }
    }

    /// True when a live certificate may have the tag; false when none has.
    pub(super) fn may_be_live(&self, of: Of, tag: u32, now: UnixTime) -> bool {
        let ends = match of {
            Of::Serial => &self.serials,
            Of::Key => &self.keys,
            Of::Request => &self.requests,
        };
        let now_s = now.seconds();
        // A question about the past is not for these tables.
        now_s < self.latest_s.saturating_sub(FORGET_AFTER_SECONDS)
            || ends.get(&tag).is_some_and(|end| i64::from(*end) >= now_s)
    }
}

fn put(ends: &mut Ends, tag: u32, end: u32) {
    let known = ends.entry(tag).or_default();
    *known = end.max(*known);
}
