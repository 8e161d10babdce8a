//! Makes the search index of a segment from its records. The same records make the same bytes, so an index is proven by making it
//! again.

use mintage_identity::{IssuerKeyId, Serial};

use super::{
    column,
    index::{HEAD_BYTES, SECTIONS, Span, label, serial_key},
    marks::{self, Mark},
    names::NamesWriter,
    table,
};
use crate::{
    facts::{Facts, request_tag},
    journal::Stored,
};

/// Octets of a public key's hash kept beside its bucket: with its first these are 56 bits.
const KEY_OCTETS: u32 = 6;
/// Octets of a request's tag kept beside its bucket: the rest of it.
const REQUEST_OCTETS: u32 = 3;

/// Collects the rows of a segment's index.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    kinds: Vec<u8>,
    times: Vec<Option<i64>>,
    not_after: Vec<Option<i64>>,
    not_before: Vec<Option<i64>>,
    instances: Vec<[u8; 8]>,
    issuers: Vec<[u8; 32]>,
    serials: Vec<Option<Serial>>,
    keys: Vec<Option<[u8; 32]>>,
    requests: Vec<Option<[u8; 4]>>,
    identities: NamesWriter,
    agents: NamesWriter,
    entries: NamesWriter,
    revoked: Vec<Mark>,
}

impl IndexWriter {
    pub(crate) fn push(&mut self, stored: &Stored) {
        let facts = Facts::read(stored.bytes());
        let leaf = facts.leaf();
        // A segment has at most 65,536 records.
        let place = self.kinds.len() as u16;
        self.revoked
            .extend(facts.revoked().map(|serial| Mark::new(&serial, place)));
        self.kinds.push(facts.kind.map_or(0, |kind| kind as u8));
        self.times.push(Some(facts.time_ms));
        self.not_after.push(leaf.map(|leaf| leaf.not_after.seconds()));
        self.not_before.push(leaf.map(|leaf| leaf.not_before.seconds()));
        self.instances.push(facts.instance_at(stored.index()).to_le_bytes());
        let issuer = IssuerKeyId::from_slice(facts.issuer_key_id).map_or([0; 32], |id| *id.as_bytes());
        self.issuers.push(issuer);
        self.serials.push(leaf.map(|leaf| leaf.serial));
        self.keys.push(leaf.map(|leaf| *leaf.spki_sha256.as_bytes()));
        let request = leaf.and_then(|_| request_tag(facts.agent, facts.request_id));
        self.requests.push(request.map(u32::to_be_bytes));
        self.identities.push(facts.spiffe_id);
        self.agents.push(facts.agent);
        self.entries.push(facts.entry);
    }

    /// The whole file.
    pub(crate) fn finish(self, origin_hash: [u8; 32], first: u64) -> Vec<u8> {
        let span = Span {
            time_min: self.times.iter().flatten().copied().min().unwrap_or(0),
            time_max: self.times.iter().flatten().copied().max().unwrap_or(0),
            not_after_max: self.not_after.iter().flatten().copied().max().unwrap_or(0),
            kind_set: self.kinds.iter().fold(0, |set, kind| set | 1 << (kind & 63)),
        };
        let count = self.kinds.len() as u32;
        let octets = self.serials.iter().flatten().map(|serial| serial.octets().len());
        let width = octets.max().unwrap_or(1);
        let serials = self.serials.iter().flat_map(|serial| {
            let padded = serial.map_or([0; 20], |serial| *serial.padded());
            padded[padded.len() - width..].to_vec()
        });
        let tails: Vec<Option<[u8; 4]>> = self
            .serials
            .iter()
            .map(|serial| serial.as_ref().map(serial_key))
            .collect();
        let sections: [(Vec<u8>, i64, u32); SECTIONS] = [
            (self.kinds, 0, 1),
            column::pack(&self.times),
            column::pack(&self.not_after),
            column::pack(&self.not_before),
            column::dictionary(&self.instances),
            column::dictionary(&self.issuers),
            (serials.collect(), 0, width as u32),
            (table::build(&tails, 0), 0, 0),
            (table::build(&self.keys, KEY_OCTETS), 0, KEY_OCTETS),
            (table::build(&self.requests, REQUEST_OCTETS), 0, REQUEST_OCTETS),
            self.identities.finish(),
            self.agents.finish(),
            self.entries.finish(),
            (marks::section(self.revoked), 0, marks::MARK_BYTES),
        ];
        assemble(origin_hash, first, count, span, &sections)
    }
}

fn assemble(
    origin_hash: [u8; 32],
    first: u64,
    count: u32,
    span: Span,
    sections: &[(Vec<u8>, i64, u32); SECTIONS],
) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEAD_BYTES + sections.iter().map(|(bytes, ..)| bytes.len()).sum::<usize>());
    label(origin_hash, first, count).put(&mut file);
    for number in [span.time_min, span.time_max, span.not_after_max] {
        file.extend_from_slice(&number.to_le_bytes());
    }
    file.extend_from_slice(&span.kind_set.to_le_bytes());
    let mut offset = HEAD_BYTES as u64;
    for (bytes, base, width) in sections {
        file.extend_from_slice(&offset.to_le_bytes());
        file.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        file.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        file.extend_from_slice(&base.to_le_bytes());
        file.extend_from_slice(&width.to_le_bytes());
        offset += bytes.len() as u64;
    }
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    sections.iter().for_each(|(bytes, ..)| file.extend_from_slice(bytes));
    file
}
