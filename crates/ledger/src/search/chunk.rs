//! Columns of up to 65,536 records in memory: the segment that is being filled, and full ones until they are sealed.

use mintage_identity::{AgentInstance, Serial, UnixTime};

use super::{
    names::Names,
    query::{Hit, LiveCertificate, LiveSerial},
    wanted::{Rows, Wanted},
};
use crate::{
    LedgerError,
    facts::{Facts, request_tag},
    kind::Kind,
    leaf_der::LeafFacts,
    limits::SEGMENT_RECORDS,
    seg::{
        index::{Span, serial_key},
        marks::Mark,
    },
};

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
    names: Names,
    kinds: Vec<u8>,
    times: Vec<i64>,
    instances: Vec<u64>,
    serials: Vec<[u8; 20]>,
    not_before_s: Vec<u32>,
    not_after_s: Vec<u32>,
    spki: Vec<[u8; 8]>,
    issuers: Vec<u16>,
    identities: Column,
    agents: Column,
    entries: Column,
    serial_tags: Column,
    spki_tags: Column,
    requests: Column,
    /// Serials that revocations name, each with its record's place.
    revoked: Vec<Mark>,
    sorted: bool,
    kind_set: u64,
    time_min: i64,
    time_max: i64,
    not_after_max: u32,
}

/// What the tables of live certificates need of a record.
pub(super) struct Pushed {
    pub(super) time_ms: i64,
    pub(super) leaf: Option<LeafFacts>,
    pub(super) request: Option<u32>,
}

/// The octets of a serial that are searched. Never zero.
fn serial_tag(serial: &Serial) -> u32 {
    u32::from_be_bytes(serial_key(serial)).max(1)
}

/// The four octets of a key hash that are searched. Never zero.
fn spki_tag(hash: &[u8; 32]) -> u32 {
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
            names: Names::default(),
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
            revoked: Vec::new(),
            sorted: false,
            kind_set: 0,
            time_min: i64::MAX,
            time_max: i64::MIN,
            not_after_max: 0,
        }
    }

    /// True when the next record belongs to another chunk.
    pub(super) fn is_full(&self) -> bool {
        self.kinds.len() == SEGMENT_RECORDS
    }

    /// Takes in the record at `index`.
    pub(super) fn push(&mut self, facts: &Facts<'_>, index: u64) -> Pushed {
        let leaf = facts.leaf();
        let kind = facts.kind.map_or(0, |kind| kind as u8);
        self.kinds.push(kind);
        self.kind_set |= 1 << (kind & 63);
        self.times.push(facts.time_ms);
        self.time_min = self.time_min.min(facts.time_ms);
        self.time_max = self.time_max.max(facts.time_ms);
        self.instances.push(facts.instance_at(index));
        self.issuers.push(self.names.intern_issuer(facts.issuer_key_id));
        self.identities.values.push(self.names.intern(facts.spiffe_id));
        self.agents.values.push(self.names.intern(facts.agent));
        self.entries.values.push(self.names.intern(facts.entry));
        let request = leaf.and_then(|_| request_tag(facts.agent, facts.request_id));
        self.requests.values.push(request.unwrap_or(0));
        let spki = leaf.as_ref().map(|leaf| *leaf.spki_sha256.as_bytes());
        self.serials
            .push(leaf.as_ref().map_or([0; 20], |leaf| *leaf.serial.padded()));
        self.serial_tags
            .values
            .push(leaf.as_ref().map_or(0, |leaf| serial_tag(&leaf.serial)));
        self.spki_tags.values.push(spki.as_ref().map_or(0, spki_tag));
        self.spki.push(spki.as_ref().map_or([0; 8], spki_octets));
        self.not_before_s
            .push(leaf.as_ref().map_or(0, |leaf| seconds(leaf.not_before)));
        // At most 65,536 records are here.
        let place = (self.kinds.len() - 1) as u16;
        self.revoked
            .extend(facts.revoked().map(|serial| Mark::new(&serial, place)));
        let not_after = leaf.as_ref().map_or(0, |leaf| seconds(leaf.not_after));
        self.not_after_s.push(not_after);
        self.not_after_max = self.not_after_max.max(not_after);
        if self.kinds.len() == SEGMENT_RECORDS {
            self.seal();
        }
        Pushed {
            time_ms: facts.time_ms,
            leaf,
            request,
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
        self.revoked.sort_unstable();
        self.revoked.dedup();
        self.revoked.shrink_to_fit();
        self.sorted = true;
    }

    fn serial(&self, at: usize) -> Option<Serial> {
        Serial::from_be_octets(self.serials.get(at)?).ok()
    }

    fn has_spki(&self, at: usize, hash: &[u8; 32]) -> bool {
        self.spki_tags.get(at) == spki_tag(hash) && self.spki.get(at) == Some(&spki_octets(hash))
    }

    /// The places of the certificate with this serial and, where they are wanted, of the revocations that name it.
    fn places_of_serial(&self, serial: &Serial, revocations: bool) -> Vec<u16> {
        let mut places = self.serial_tags.places(serial_tag(serial), self.sorted);
        places.retain(|at| self.serial(usize::from(*at)).as_ref() == Some(serial));
        if revocations {
            let wanted = Mark::new(serial, 0);
            let from = match self.sorted {
                true => self.revoked.partition_point(|mark| *mark < wanted),
                false => 0,
            };
            let named = self.revoked[from..].iter();
            // Sorted ones of a serial follow one another.
            let named = named.take_while(|mark| !self.sorted || mark.is_of(wanted));
            places.extend(named.filter(|mark| mark.is_of(wanted)).map(|mark| mark.place()));
            places.sort_unstable();
            // A revocation may name a serial twice.
            places.dedup();
        }
        places
    }

    /// The places that the most telling condition leaves; `None` when a name or issuer is not here.
    fn candidates(&self, wanted: &Wanted<'_>, identities: Option<&[u32]>) -> Option<Vec<u16>> {
        if let Some(serial) = wanted.serial {
            return Some(self.places_of_serial(serial, wanted.revocations));
        }
        let mut narrow = None;
        for (name, column) in [(wanted.entry, &self.entries), (wanted.agent, &self.agents)] {
            if let Some(name) = name {
                narrow = Some((column, self.names.find(name)?));
            }
        }
        if let (None, Some(identities)) = (narrow, identities) {
            let places = identities
                .iter()
                .map(|number| self.identities.places(*number, self.sorted));
            let mut places: Vec<u16> = places.flatten().collect();
            places.sort_unstable();
            return (!places.is_empty()).then_some(places);
        }
        if let Some(tag) = wanted.request {
            narrow = Some((&self.requests, tag));
        }
        if let Some(key) = wanted.key {
            narrow = Some((&self.spki_tags, spki_tag(key.as_bytes())));
        }
        Some(match narrow {
            Some((column, value)) => column.places(value, self.sorted),
            None => (0..=u16::MAX).take(self.kinds.len()).collect(),
        })
    }
}

impl Rows for Chunk {
    fn first(&self) -> u64 {
        self.first
    }

    fn count(&self) -> usize {
        self.kinds.len()
    }

    fn span(&self) -> Span {
        Span {
            time_min: self.time_min,
            time_max: self.time_max,
            not_after_max: self.not_after_max.into(),
            kind_set: self.kind_set,
        }
    }

    fn select(&self, wanted: &Wanted<'_>) -> Result<(Vec<u16>, usize), LedgerError> {
        let identities = wanted.identities(self.kind_set);
        let identities: Option<Vec<u32>> =
            identities.map(|names| names.iter().filter_map(|name| self.names.find(name)).collect());
        let Some(mut places) = self.candidates(wanted, identities.as_deref()) else {
            return Ok((Vec::new(), 0));
        };
        let looked = places.len();
        let issuer = wanted.issuer.map(|id| self.names.find_issuer(id));
        let number = |name: Option<&str>| name.and_then(|name| self.names.find(name));
        let (agent, entry) = (number(wanted.agent), number(wanted.entry));
        let below = wanted
            .prefix
            .map(|_| self.names.matching(|name| wanted.prefix_fits(name)));
        let has =
            |column: &Column, at: usize, number: Option<u32>| number.is_none_or(|number| column.get(at) == number);
        places.retain(|at| {
            let at = usize::from(*at);
            let is_below = |below: &Vec<bool>| below.get(self.identities.get(at) as usize).copied().unwrap_or(false);
            let is_about = |numbers: &Vec<u32>| numbers.contains(&self.identities.get(at));
            identities.as_ref().is_none_or(is_about)
                && has(&self.agents, at, agent)
                && has(&self.entries, at, entry)
                && below.as_ref().is_none_or(is_below)
                && wanted.kind_and_time_fit(self.kinds[at], self.times[at])
                && wanted
                    .live_at
                    .is_none_or(|now| self.not_after_s[at] != 0 && i64::from(self.not_after_s[at]) >= now)
                && wanted.key.is_none_or(|key| self.has_spki(at, key.as_bytes()))
                && wanted.request.is_none_or(|tag| self.requests.get(at) == tag)
                && wanted.instance.is_none_or(|instance| self.instances[at] == instance)
                && issuer.is_none_or(|issuer| issuer == Some(self.issuers[at]))
        });
        Ok((places, looked))
    }

    fn hits(&self, places: &[u16]) -> Result<Vec<Hit>, LedgerError> {
        Ok(places.iter().map(|at| self.hit(usize::from(*at))).collect())
    }

    fn certificates(&self, places: &[u16]) -> Result<Vec<LiveCertificate>, LedgerError> {
        let certificates = places.iter().filter_map(|at| self.certificate(usize::from(*at)));
        Ok(certificates.collect())
    }

    fn serials(&self, places: &[u16]) -> Result<Vec<LiveSerial>, LedgerError> {
        let serial = |at: usize| {
            Some(LiveSerial {
                issuer: self.names.issuer(self.issuers[at])?,
                serial: self.serial(at)?,
                not_after: UnixTime::from_seconds(self.not_after_s[at].into()),
            })
        };
        Ok(places.iter().filter_map(|at| serial(usize::from(*at))).collect())
    }
}

impl Chunk {
    fn hit(&self, at: usize) -> Hit {
        let serial = self.serial(at);
        Hit {
            index: self.first + at as u64,
            kind: Kind::from_tag(self.kinds[at].into()),
            time: UnixTime::from_millis(self.times[at]),
            spiffe_id: self.names.name(self.identities.get(at)),
            agent: self.names.name(self.agents.get(at)),
            entry: self.names.name(self.entries.get(at)),
            not_after: serial.map(|_| UnixTime::from_seconds(self.not_after_s[at].into())),
            serial,
        }
    }

    fn certificate(&self, at: usize) -> Option<LiveCertificate> {
        Some(LiveCertificate {
            index: self.first + at as u64,
            issuer: self.names.issuer(self.issuers[at])?,
            serial: self.serial(at)?,
            not_before: UnixTime::from_seconds(self.not_before_s[at].into()),
            not_after: UnixTime::from_seconds(self.not_after_s[at].into()),
            spiffe_id: self.names.name(self.identities.get(at))?,
            agent: self.names.name(self.agents.get(at)),
            instance: AgentInstance(self.instances[at]),
            entry: self.names.name(self.entries.get(at)),
        })
    }
}
