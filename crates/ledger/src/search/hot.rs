//! What an issuance asks for each certificate, answered at once: is this serial, this key or this request live?
//!
//! Tables of four-octet tags, each with the latest end of validity it was seen with. Nearly every question is about
//! something that is not there, and ends here; a tag that is there only means "look", and the columns decide.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use mintage_identity::{Serial, UnixTime};

use super::chunk::Pushed;
use crate::{
    LedgerError,
    seg::{
        index::{Part, SealedIndex, serial_key},
        seal::Segments,
    },
};

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
    pub(super) fn add(&mut self, pushed: &Pushed) {
        self.latest_s = self.latest_s.max(UnixTime::from_millis(pushed.time_ms).seconds());
        let Some(leaf) = &pushed.leaf else { return };
        let end = end_of(leaf.not_after.seconds());
        put(&mut self.serials, serial_tag(&leaf.serial), end);
        put(&mut self.keys, key_tag(leaf.spki_sha256.as_bytes()), end);
        if let Some(request) = pushed.request {
            put(&mut self.requests, request, end);
        }
        if self.serials.len() >= SWEEP_MIN.max(2 * self.swept) {
            let oldest = self.latest_s.saturating_sub(FORGET_AFTER_SECONDS);
            for ends in [&mut self.serials, &mut self.keys, &mut self.requests] {
                ends.retain(|_, end| i64::from(*end) >= oldest);
            }
            self.swept = self.serials.len();
        }
    }

    /// Takes in what may be live of these sealed segments, when there is nothing else yet.
    pub(super) fn load(&mut self, segments: &Segments, sealed: &[Arc<SealedIndex>]) -> Result<(), LedgerError> {
        let latest = sealed.iter().map(|index| index.span().time_max).max();
        self.latest_s = latest.map_or(0, |latest| UnixTime::from_millis(latest).seconds());
        let oldest = self.latest_s.saturating_sub(FORGET_AFTER_SECONDS);
        for index in sealed.iter().filter(|index| index.span().not_after_max >= oldest) {
            segments.ask(index, |index| self.load_one(index, oldest))?;
        }
        self.swept = self.serials.len();
        Ok(())
    }

    fn load_one(&mut self, index: &SealedIndex, oldest: i64) -> Result<(), LedgerError> {
        let ends = index.numbers(Part::NotAfter)?;
        let end = |at: u16| {
            ends.get(usize::from(at))
                .map_or(0, |end| index.above(Part::NotAfter, *end))
        };
        for (part, table) in [
            (Part::KeyTable, &mut self.keys),
            (Part::RequestTable, &mut self.requests),
        ] {
            for (at, key) in index.keys(part)?.iter().filter(|(at, _)| end(*at) >= oldest) {
                if let Some(first) = key.first_chunk::<4>() {
                    put(table, tag(*first), end_of(end(*at)));
                }
            }
        }
        for (at, serial) in index.serials()?.iter().filter(|(at, _)| end(*at) >= oldest) {
            put(&mut self.serials, serial_tag(serial), end_of(end(*at)));
        }
        Ok(())
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

fn end_of(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

fn tag(first: [u8; 4]) -> u32 {
    u32::from_be_bytes(first)
}

pub(super) fn serial_tag(serial: &Serial) -> u32 {
    tag(serial_key(serial))
}

/// The tag of a public key's hash.
pub(super) fn key_tag(hash: &[u8; 32]) -> u32 {
    tag([hash[0], hash[1], hash[2], hash[3]])
}
