//! The search index of a sealed segment: columns, dictionaries and tables that are read in place.
//!
//! ```text
//! label | times of the first and last record i64, i64 (ms) | latest end of validity i64 (s) | set of kinds u64
//! for each section: offset u64 | length u64 | crc32c u32 | base i64 | width u32
//! crc32c of all before u32 | sections
//! ```
//! Only the head is read when the file is opened. A section is compared with its checksum before the first answer from it; the
//! offline verification compares the whole file with the one that the records make.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use mintage_identity::{Serial, SpkiHash};

use super::{
    Bytes, LABEL_BYTES, Label, Role, Sealed, Segment, column,
    columns::Columns,
    entries::Entries,
    marks::{self, Mark},
    names, table,
};
use crate::{LedgerError, layout::Shard};

const MAGIC: [u8; 16] = *b"mintage index 02";
/// How an index of a version begins that did not have what revocations name. It counts as none, and is made again.
const OLDER: [u8; 16] = *b"mintage index 01";
/// Number of sections.
pub(crate) const SECTIONS: usize = 14;
/// Bytes of a section's row in the head.
pub(crate) const SECTION_BYTES: usize = 8 + 8 + 4 + 8 + 4;
/// Bytes of the head, checksum included.
pub(crate) const HEAD_BYTES: usize = LABEL_BYTES + 4 * 8 + SECTIONS * SECTION_BYTES + 4;
/// Bytes that are read at a time where a file is read through.
const PIECE_BYTES: usize = 64 * 1024;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Part {
    Kinds,
    Times,
    NotAfter,
    NotBefore,
    Instances,
    Issuers,
    Serials,
    SerialTable,
    KeyTable,
    RequestTable,
    Identities,
    Agents,
    Entries,
    Revoked,
}

#[derive(Clone, Copy, Debug, Default)]
struct Section {
    offset: u64,
    len: u64,
    crc: u32,
    base: i64,
    width: u32,
}

/// Times and kinds of a whole segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) time_min: i64,
    pub(crate) time_max: i64,
    pub(crate) not_after_max: i64,
    pub(crate) kind_set: u64,
}

pub(super) fn label(origin_hash: [u8; 32], first: u64, count: u32) -> Label {
    Label {
        magic: MAGIC,
        origin_hash,
        first,
        count,
    }
}

/// The octets of a serial by which it is found: its last, which are random in serials made here.
pub(crate) fn serial_key(serial: &Serial) -> [u8; 4] {
    let tail = serial.tail();
    [tail[8], tail[9], tail[10], tail[11]]
}

/// Where the places of a name end, and its text.
type Ends = (u32, u32);

/// A segment's index, read in place.
#[derive(Debug)]
pub(crate) struct SealedIndex {
    sealed: Sealed,
    span: Span,
    sections: [Section; SECTIONS],
    /// The sections whose checksum was compared and is right.
    proven: [AtomicBool; SECTIONS],
    /// True once damage was logged.
    told: AtomicBool,
}

impl SealedIndex {
    /// Reads the head.
    pub(crate) fn open(shard: &Shard, segment: Segment) -> Result<Self, LedgerError> {
        Self::open_labelled(
            segment.index(shard),
            label(shard.origin_hash(), segment.first(), 0),
            shard.base,
        )
    }

    /// Reads the head of the index, at `path`, of the segment with these records.
    pub(super) fn open_beside(path: PathBuf, entries: &Entries) -> Result<Self, LedgerError> {
        let of = &entries.sealed;
        Self::open_labelled(path, label(of.label.origin_hash, of.label.first, 0), of.base())
    }

    fn open_labelled(path: PathBuf, label: Label, base: u64) -> Result<Self, LedgerError> {
        if Sealed::begins_with(&path, OLDER) {
            return Err(LedgerError::Missing {
                path,
                detail: "a search index of this version; the one that is there is of an earlier one",
            });
        }
        let (sealed, head) = Sealed::open_head(path, label, base, Role::Derived, HEAD_BYTES)?;
        let mut rest = Bytes(&head);
        let span = Span {
            time_min: rest.i64().unwrap_or(0),
            time_max: rest.i64().unwrap_or(0),
            not_after_max: rest.i64().unwrap_or(0),
            kind_set: rest.u64().unwrap_or(0),
        };
        let mut sections = [Section::default(); SECTIONS];
        let mut end = HEAD_BYTES as u64;
        for section in &mut sections {
            *section = Section {
                offset: rest.u64().unwrap_or(0),
                len: rest.u64().unwrap_or(0),
                crc: rest.u32().unwrap_or(0),
                base: rest.i64().unwrap_or(0),
                width: rest.u32().unwrap_or(0),
            };
            if section.offset != end || section.width > 32 {
                return Err(sealed.corrupt(0, "the sections do not follow one another"));
            }
            end = end.saturating_add(section.len);
        }
        if end != sealed.len {
            return Err(sealed.corrupt(0, "the file has another length than its head says"));
        }
        Ok(Self {
            sealed,
            span,
            sections,
            proven: Default::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Opens a file that is no segment of a shard.
    pub(crate) fn open_part(path: PathBuf, origin_hash: [u8; 32], first: u64) -> Result<Self, LedgerError> {
        Self::open_labelled(path, label(origin_hash, first, 0), 0)
    }

    /// Compares the checksum of a section, once.
    fn prove(&self, part: Part) -> Result<(), LedgerError> {
        let proven = &self.proven[part as usize];
        if proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let section = self.section(part);
        let mut crc = 0;
        self.pieces(section.offset, section.len, |_, piece| {
            crc = crc32c::crc32c_append(crc, piece);
            Ok(())
        })?;
        if crc != section.crc {
            let damage = self.corrupt(section, "a section of the index has another checksum");
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!(error = %damage, "a segment's index is damaged");
            }
            return Err(damage);
        }
        proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Compares the whole file with the one that the segment's records make.
    ///
    /// # Errors
    /// Names the first byte that differs.
    pub(crate) fn compare(&self, made: &[u8]) -> Result<(), LedgerError> {
        let differs = |at| {
            self.sealed
                .corrupt(at, "the index is not that of the segment's records")
        };
        self.pieces(0, self.sealed.len, |offset, piece| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let made = made.get(from..).unwrap_or_default();
            if made.starts_with(piece) {
                return Ok(());
            }
            let same = made.iter().zip(piece).take_while(|(made, found)| made == found).count();
            Err(differs(offset + same as u64))
        })?;
        match self.sealed.len == made.len() as u64 {
            true => Ok(()),
            false => Err(differs(self.sealed.len)),
        }
    }

    /// Reads a part of the file, little by little.
    fn pieces(
        &self,
        offset: u64,
        len: u64,
        mut look: impl FnMut(u64, &[u8]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut piece = vec![0; usize::try_from(len).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
        let mut at = 0;
        while at < len {
            let some = usize::try_from(len - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            self.sealed.read_into(&mut piece[..some], offset + at)?;
            look(offset + at, &piece[..some])?;
            at += some as u64;
        }
        Ok(())
    }

    fn corrupt(&self, section: Section, problem: &str) -> LedgerError {
        self.sealed.corrupt(section.offset, problem)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.sealed.path
    }

    /// The records of the segment.
    pub(super) fn entries(&self) -> Result<Entries, LedgerError> {
        Entries::of(&self.sealed)
    }

    /// The refusal of an index that has other records than its segment.
    pub(crate) fn other_count(&self, entries: u32) -> LedgerError {
        let problem = format!("the index is of {} records, the segment has {entries}", self.count());
        self.sealed.corrupt(0, problem)
    }

    /// Position of the first record.
    pub(crate) fn first(&self) -> u64 {
        self.sealed.first
    }

    /// Position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first() + u64::from(self.count())
    }

    pub(crate) fn count(&self) -> u32 {
        self.sealed.count()
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.sealed.len
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    fn section(&self, part: Part) -> Section {
        self.sections[part as usize]
    }

    /// Octets of a section.
    pub(super) fn read(&self, part: Part, from: u64, len: u64) -> Result<Vec<u8>, LedgerError> {
        self.prove(part)?;
        let section = self.section(part);
        match from.checked_add(len).is_some_and(|end| end <= section.len) {
            true => self.sealed.read(section.offset + from, len),
            false => Err(self.cut_short(part)),
        }
    }

    /// The refusal of a section that ends before what was to be read.
    pub(super) fn cut_short(&self, part: Part) -> LedgerError {
        self.corrupt(self.section(part), "a section of the index is shorter than it says")
    }

    /// Octets of a section.
    pub(super) fn section_len(&self, part: Part) -> u64 {
        self.section(part).len
    }

    /// Octets of one row of a column.
    pub(super) fn width(&self, part: Part) -> u64 {
        u64::from(self.section(part).width)
    }

    /// Octets of all rows of a column; its dictionary, where it has one, lies behind them.
    pub(super) fn data_len(&self, part: Part) -> u64 {
        u64::from(self.count()) * self.width(part)
    }

    /// All numbers of a column, in order.
    pub(crate) fn numbers(&self, part: Part) -> Result<Vec<u64>, LedgerError> {
        let section = self.section(part);
        let bytes = self.read(part, 0, u64::from(self.count()) * u64::from(section.width))?;
        Ok(bytes
            .chunks_exact(section.width.max(1) as usize)
            .map(column::get)
            .collect())
    }

    /// A number above the least of a packed column.
    pub(crate) fn above(&self, part: Part, number: u64) -> i64 {
        self.section(part).base.wrapping_add(number.cast_signed())
    }

    /// Every serial with its place.
    pub(crate) fn serials(&self) -> Result<Vec<(u16, Serial)>, LedgerError> {
        let section = self.section(Part::Serials);
        let width = u64::from(section.width);
        let octets = self.read(Part::Serials, 0, u64::from(self.count()) * width)?;
        let rows = (0..=u16::MAX).zip(octets.chunks_exact(width.max(1) as usize));
        let serial = |(at, octets): (u16, &[u8])| {
            let begin = octets.iter().position(|octet| *octet != 0)?;
            Some((at, Serial::from_be_octets(&octets[begin..]).ok()?))
        };
        Ok(rows.filter_map(serial).collect())
    }

    /// Places of records of these kinds, a bit for each, ascending.
    pub(crate) fn places_of_kinds(&self, kinds: u64) -> Result<Vec<u16>, LedgerError> {
        // An octet for each record.
        let octets = self.read(Part::Kinds, 0, u64::from(self.count()))?;
        let places = (0..=u16::MAX).zip(octets);
        let wanted = places.filter(|(_, kind)| kinds & 1 << (kind & 63) != 0);
        Ok(wanted.map(|(at, _)| at).collect())
    }

    /// Places with this serial, ascending.
    pub(crate) fn places_of_serial(&self, serial: &Serial) -> Result<Vec<u16>, LedgerError> {
        let places = self.lookup(Part::SerialTable, &serial_key(serial))?;
        let mut found = Vec::new();
        let columns = Columns::for_rows(self, places.len());
        for place in places {
            if columns.serial(place)?.as_ref() == Some(serial) {
                found.push(place);
            }
        }
        Ok(found)
    }

    /// Places of revocations that name this serial, ascending; see [`marks`] for how surely.
    pub(crate) fn places_that_revoke(&self, serial: &Serial) -> Result<Vec<u16>, LedgerError> {
        let row = u64::from(marks::MARK_BYTES);
        let count = self.section_len(Part::Revoked) / row;
        let at = |at: u64| self.read(Part::Revoked, at * row, row).map(|octets| Mark::get(&octets));
        let wanted = Mark::new(serial, 0);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match at(middle)? < wanted {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let mut places = Vec::new();
        while low < count {
            let mark = at(low)?;
            if !mark.is_of(wanted) {
                break;
            }
            places.push(mark.place());
            low += 1;
        }
        Ok(places)
    }

    /// Places of certificates over this key, but for one in 2^56 that is of another.
    pub(crate) fn places_of_key(&self, key: &SpkiHash) -> Result<Vec<u16>, LedgerError> {
        self.lookup(Part::KeyTable, key.as_bytes())
    }

    /// Places of requests with this tag.
    pub(crate) fn places_of_request(&self, tag: u32) -> Result<Vec<u16>, LedgerError> {
        self.lookup(Part::RequestTable, &tag.to_be_bytes())
    }

    fn lookup(&self, part: Part, key: &[u8]) -> Result<Vec<u16>, LedgerError> {
        let section = self.section(part);
        let bucket = table::bucket(key) as u64;
        let bounds = self.read(part, bucket * 4, 8)?;
        let mut bounds = Bytes(&bounds);
        let (from, to) = (bounds.u32().unwrap_or(0), bounds.u32().unwrap_or(0));
        let row = 2 + u64::from(section.width);
        let len = u64::from(to.saturating_sub(from)) * row;
        let rows = self.read(part, table::STARTS_BYTES + u64::from(from) * row, len)?;
        let wanted = table::kept(key, section.width);
        let places = rows.chunks_exact(row as usize).filter(|row| row[2..] == *wanted);
        Ok(places.map(|row| column::get(&row[..2]) as u16).collect())
    }

    /// Every key of a table with its place: the first octets, up to the last that is kept.
    pub(crate) fn keys(&self, part: Part) -> Result<Vec<(u16, Vec<u8>)>, LedgerError> {
        let section = self.section(part);
        let bytes = self.read(part, 0, section.len)?;
        let (starts, rows) = bytes
            .split_at_checked(table::STARTS_BYTES as usize)
            .ok_or_else(|| self.corrupt(section, "a table is cut short"))?;
        let row = 2 + section.width as usize;
        let ends: Vec<usize> = starts
            .chunks_exact(4)
            .skip(1)
            .map(|end| column::get(end) as usize)
            .collect();
        let mut bucket = 0;
        let mut keys = Vec::with_capacity(rows.len() / row);
        for (at, row) in rows.chunks_exact(row).enumerate() {
            while ends.get(bucket).is_some_and(|end| *end <= at) {
                bucket += 1;
            }
            keys.push((column::get(&row[..2]) as u16, table::restored(bucket, &row[2..])));
        }
        Ok(keys)
    }

    /// Rows of names `from..to` of a dictionary: hash, end of places, end of text.
    fn name_rows(&self, part: Part, from: u64, to: u64) -> Result<Vec<(u64, u32, u32)>, LedgerError> {
        let section = self.section(part);
        let data = u64::from(self.count()) * u64::from(section.width);
        let bytes = self.read(
            part,
            data + from * names::ROW_BYTES,
            to.saturating_sub(from) * names::ROW_BYTES,
        )?;
        let rows = bytes.chunks_exact(names::ROW_BYTES as usize).map(|row| {
            let mut row = Bytes(row);
            (row.u64().unwrap_or(0), row.u32().unwrap_or(0), row.u32().unwrap_or(0))
        });
        Ok(rows.collect())
    }

    fn names_count(&self, part: Part) -> u64 {
        u64::try_from(self.section(part).base)
            .unwrap_or(0)
            .min(u64::from(self.count()))
    }

    /// The number of a name, from 1; `None` when no record of the segment has it.
    pub(crate) fn find(&self, part: Part, name: &str) -> Result<Option<u32>, LedgerError> {
        let (names, hash) = (self.names_count(part), names::hash_of(name));
        if names == 0 {
            return Ok(None);
        }
        // Where the hash must be when hashes are spread evenly, give or take three deviations; wider where it is not.
        let guess = ((u128::from(hash) * u128::from(names)) >> 64) as u64;
        let mut slack = names.isqrt() * 2 + 2;
        let (from, rows) = loop {
            let (from, to) = (guess.saturating_sub(slack), (guess + slack).min(names));
            let rows = self.name_rows(part, from, to)?;
            let below = from == 0 || rows.first().is_some_and(|row| row.0 < hash);
            let above = to == names || rows.last().is_some_and(|row| row.0 > hash);
            if below && above {
                break (from, rows);
            }
            slack = slack.saturating_mul(4);
        };
        for (at, _) in (from..).zip(&rows).filter(|(_, row)| row.0 == hash) {
            if self.name(part, at as u32 + 1)?.as_deref() == Some(name) {
                return Ok(Some(at as u32 + 1));
            }
        }
        Ok(None)
    }

    /// Ends of the places and of the text: of the name before this one, and of this one.
    fn bounds(&self, part: Part, number: u32) -> Result<(Ends, Ends), LedgerError> {
        let at = u64::from(number) - 1;
        let rows = self.name_rows(part, at.saturating_sub(1), at + 1)?;
        let before = if at == 0 {
            (0, 0)
        } else {
            rows.first().map_or((0, 0), |row| (row.1, row.2))
        };
        Ok((before, rows.last().map_or((0, 0), |row| (row.1, row.2))))
    }

    /// The name of a number; `None` for 0.
    pub(crate) fn name(&self, part: Part, number: u32) -> Result<Option<String>, LedgerError> {
        if number == 0 {
            return Ok(None);
        }
        let section = self.section(part);
        let ((_, from), (_, to)) = self.bounds(part, number)?;
        let texts = self.texts_at(part)?;
        let text = self.read(part, texts + u64::from(from), u64::from(to.saturating_sub(from)))?;
        let text = String::from_utf8(text).map_err(|_| self.corrupt(section, "a name is no text"))?;
        Ok(Some(text))
    }

    fn texts_at(&self, part: Part) -> Result<u64, LedgerError> {
        let names = self.names_count(part);
        let places = match names {
            0 => 0,
            _ => self.name_rows(part, names - 1, names)?.last().map_or(0, |row| row.1),
        };
        Ok(self.places_at(part) + 2 * u64::from(places))
    }

    fn places_at(&self, part: Part) -> u64 {
        let section = self.section(part);
        u64::from(self.count()) * u64::from(section.width) + self.names_count(part) * names::ROW_BYTES
    }

    /// The places that have the name of this number, ascending.
    pub(crate) fn places_of_name(&self, part: Part, number: u32) -> Result<Vec<u16>, LedgerError> {
        let ((from, _), (to, _)) = self.bounds(part, number)?;
        let len = u64::from(to.saturating_sub(from)) * 2;
        let bytes = self.read(part, self.places_at(part) + 2 * u64::from(from), len)?;
        Ok(bytes.chunks_exact(2).map(|place| column::get(place) as u16).collect())
    }

    /// Every name, by its number from 1.
    pub(crate) fn names(&self, part: Part) -> Result<Vec<String>, LedgerError> {
        let section = self.section(part);
        let rows = self.name_rows(part, 0, self.names_count(part))?;
        let texts = self.texts_at(part)?;
        let all = self.read(part, texts, u64::from(rows.last().map_or(0, |row| row.2)))?;
        let mut from = 0;
        let mut names = Vec::with_capacity(rows.len());
        for (_, _, to) in rows {
            let text = all
                .get(from..to as usize)
                .and_then(|text| std::str::from_utf8(text).ok());
            names.push(
                text.ok_or_else(|| self.corrupt(section, "a name is no text"))?
                    .to_owned(),
            );
            from = to as usize;
        }
        Ok(names)
    }
}

/// Times that a query compares with.
impl Span {
    /// True when a record of the segment may lie within the times.
    pub(crate) fn overlaps(&self, since: i64, until: i64) -> bool {
        self.time_max >= since && self.time_min <= until
    }
}
