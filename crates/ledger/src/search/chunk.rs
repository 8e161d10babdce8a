//! Columns of up to 65,536 records.

use mintage_identity::{Serial, UnixTime};

use crate::{leaf_der::LeafFacts, limits::SEGMENT_RECORDS};

/// What is indexed of one record, as numbers.
pub(super) struct Row {
    pub(super) kind: u8,
    pub(super) time_ms: i64,
    pub(super) identity: u32,
    pub(super) agent: u32,
    pub(super) instance: u64,
    pub(super) entry: u32,
    pub(super) issuer: u16,
    pub(super) leaf: Option<LeafFacts>,
    pub(super) request: u32,
}

/// A column that is searched by value. Once sorted, `order` lists the places by value and then place.
#[derive(Debug, Default)]
pub(super) struct Column {
    values: Vec<u32>,
    order: Vec<u16>,
}

impl Column {
    pub(super) fn get(&self, at: usize) -> u32 {
        self.values.get(at).copied().unwrap_or(0)
    }

    fn sort(&mut self) {
        let values = &self.values;
        // Absent values are never searched for.
        self.order = (0..=u16::MAX)
            .take(values.len())
            .filter(|at| values[usize::from(*at)] != 0)
            .collect();
        self.order.sort_unstable_by_key(|at| (values[usize::from(*at)], *at));
        self.order.shrink_to_fit();
    }

    /// The places that hold `value`, ascending.
    pub(super) fn places(&self, value: u32, sorted: bool) -> Vec<u16> {
        if !sorted {
            let found = self.values.iter().enumerate().filter(|(_, v)| **v == value);
            return found.map(|(at, _)| at as u16).collect();
        }
        let of = |at: &u16| self.values[usize::from(*at)];
        let from = self.order.partition_point(|at| of(at) < value);
        let to = from + self.order[from..].partition_point(|at| of(at) == value);
        self.order[from..to].to_vec()
    }
}

/// A run of records with consecutive indices.
#[derive(Debug)]
pub(super) struct Chunk {
    first: u64,
    kinds: Vec<u8>,
    times: Vec<i64>,
    instances: Vec<u64>,
    serials: Vec<[u8; 20]>,
    not_before_s: Vec<u32>,
    not_after_s: Vec<u32>,
    spki: Vec<[u8; 8]>,
    issuers: Vec<u16>,
    pub(super) identities: Column,
    pub(super) agents: Column,
    pub(super) entries: Column,
    pub(super) serial_tags: Column,
    pub(super) spki_tags: Column,
    pub(super) requests: Column,
    sorted: bool,
    kind_set: u64,
    time_min: i64,
    time_max: i64,
    not_after_max: u32,
}

/// The four octets of a serial that are searched: the last, which are random in serials made here. Never zero.
pub(super) fn serial_tag(serial: &Serial) -> u32 {
    let tail = serial.tail();
    u32::from_be_bytes([tail[8], tail[9], tail[10], tail[11]]).max(1)
}

/// The four octets of a key hash that are searched. Never zero.
pub(super) fn spki_tag(hash: &[u8; 32]) -> u32 {
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).max(1)
}

fn spki_octets(hash: &[u8; 32]) -> [u8; 8] {
    let mut octets = [0; 8];
    octets.copy_from_slice(&hash[4..12]);
    octets
}

fn seconds(time: UnixTime) -> u32 {
    u32::try_from(time.seconds().max(1)).unwrap_or(u32::MAX)
}

impl Chunk {
    pub(super) fn new(first: u64) -> Self {
        Self {
            first,
            kinds: Vec::new(),
            times: Vec::new(),
            instances: Vec::new(),
            serials: Vec::new(),
            not_before_s: Vec::new(),
            not_after_s: Vec::new(),
            spki: Vec::new(),
            issuers: Vec::new(),
            identities: Column::default(),
            agents: Column::default(),
            entries: Column::default(),
            serial_tags: Column::default(),
            spki_tags: Column::default(),
            requests: Column::default(),
            sorted: false,
            kind_set: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            not_after_max: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn push(&mut self, row: &Row) {
        self.kinds.push(row.kind);
        self.kind_set |= 1 << (row.kind & 63);
        self.times.push(row.time_ms);
        self.time_min = self.time_min.min(row.time_ms);
        self.time_max = self.time_max.max(row.time_ms);
        self.instances.push(row.instance);
        self.issuers.push(row.issuer);
        self.identities.values.push(row.identity);
        self.agents.values.push(row.agent);
        self.entries.values.push(row.entry);
        self.requests.values.push(row.request);
        let leaf = row.leaf.as_ref();
        let spki = leaf.map(|leaf| *leaf.spki_sha256.as_bytes());
        self.serials.push(leaf.map_or([0; 20], |leaf| *leaf.serial.padded()));
        self.serial_tags
            .values
            .push(leaf.map_or(0, |leaf| serial_tag(&leaf.serial)));
        self.spki_tags.values.push(spki.as_ref().map_or(0, spki_tag));
        self.spki.push(spki.as_ref().map_or([0; 8], spki_octets));
        self.not_before_s.push(leaf.map_or(0, |leaf| seconds(leaf.not_before)));
        let not_after = leaf.map_or(0, |leaf| seconds(leaf.not_after));
        self.not_after_s.push(not_after);
        self.not_after_max = self.not_after_max.max(not_after);
        if self.len() == SEGMENT_RECORDS {
            self.seal();
        }
    }

    /// Sorts the searched columns; no record is added after that.
    fn seal(&mut self) {
        for column in [
            &mut self.identities,
            &mut self.agents,
            &mut self.entries,
            &mut self.serial_tags,
            &mut self.spki_tags,
            &mut self.requests,
        ] {
            column.sort();
            column.values.shrink_to_fit();
        }
        self.kinds.shrink_to_fit();
        self.times.shrink_to_fit();
        self.instances.shrink_to_fit();
        self.serials.shrink_to_fit();
        self.not_before_s.shrink_to_fit();
        self.not_after_s.shrink_to_fit();
        self.spki.shrink_to_fit();
        self.issuers.shrink_to_fit();
        self.sorted = true;
    }

    pub(super) fn places(&self, column: &Column, value: u32) -> Vec<u16> {
        column.places(value, self.sorted)
    }

    pub(super) fn kind(&self, at: usize) -> u8 {
        self.kinds.get(at).copied().unwrap_or(0)
    }

    pub(super) fn has_kinds(&self, wanted: u64) -> bool {
        self.kind_set & wanted != 0
    }

    pub(super) fn time_ms(&self, at: usize) -> i64 {
        self.times.get(at).copied().unwrap_or(0)
    }

    /// True when a record of the chunk may lie within the times.
    pub(super) fn overlaps(&self, since: i64, until: i64) -> bool {
        self.time_max >= since && self.time_min <= until
    }

    pub(super) fn instance(&self, at: usize) -> u64 {
        self.instances.get(at).copied().unwrap_or(0)
    }

    pub(super) fn issuer(&self, at: usize) -> u16 {
        self.issuers.get(at).copied().unwrap_or(0)
    }

    pub(super) fn serial(&self, at: usize) -> Option<Serial> {
        Serial::from_be_octets(self.serials.get(at)?).ok()
    }

    pub(super) fn has_spki(&self, at: usize, hash: &[u8; 32]) -> bool {
        self.spki_tags.get(at) == spki_tag(hash) && self.spki.get(at) == Some(&spki_octets(hash))
    }

    pub(super) fn not_before_s(&self, at: usize) -> i64 {
        self.not_before_s.get(at).copied().unwrap_or(0).into()
    }

    pub(super) fn not_after_s(&self, at: usize) -> i64 {
        self.not_after_s.get(at).copied().unwrap_or(0).into()
    }

    /// True when a certificate of the chunk may still be valid at a time in seconds.
    pub(super) fn may_be_live(&self, now_s: i64) -> bool {
        i64::from(self.not_after_max) >= now_s
    }
}
