//! Doors to the parsers of the ledger's own files, for programs that feed them hostile bytes. No part of the interface.

use std::path::Path;

use mintage_identity::{Serial, SpkiHash};

use crate::{
    LedgerError, Record, Stored,
    origin::Origin,
    recovery::{Ending, Expect, Found, Visitor, scan},
    seg::{
        columns::Columns,
        entries::{Entries, EntriesWriter},
        index::{HEAD_BYTES, Part, SECTION_BYTES, SECTIONS, SealedIndex},
        index_writer::IndexWriter,
    },
    tile_dir::split,
    tiles::{read_tile, tile_file},
    tree::{Hash, sha256},
    wal::{FRAME_HEAD, FrameKind, GroupHead, Trailer, frame_checksum, put_frame, read_frame},
};

/// The log that [`sealed`] makes files of.
const ORIGIN: [u8; 32] = [5; 32];

/// A record as it is written.
///
/// # Errors
/// As [`Record::encode`].
pub fn written(record: Record) -> Result<Vec<u8>, LedgerError> {
    Ok(record.encode()?.bytes().to_vec())
}

/// Reads frames from the front until there is none; what they are written as, which is where they stood.
pub fn frames(bytes: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    while let Some(Ok(frame)) = bytes.get(written.len()..).map(read_frame) {
        match frame.kind {
            FrameKind::GroupHead => match GroupHead::read(frame.payload) {
                Some(head) => head.put(&mut written),
                None => put_frame(&mut written, frame.kind, frame.payload),
            },
            FrameKind::Trailer => {
                let _ = Trailer::read(frame.payload);
                put_frame(&mut written, frame.kind, frame.payload);
            }
            kind => put_frame(&mut written, kind, frame.payload),
        }
    }
    written
}

/// Record frames of these payloads.
pub fn framed(records: &[Vec<u8>]) -> Vec<u8> {
    let mut written = Vec::new();
    for record in records {
        put_frame(&mut written, FrameKind::Record, record);
    }
    written
}

/// The records of an entry bundle of this many, written again; `None` when it is none.
pub fn bundle(bytes: &[u8], width: usize) -> Option<Vec<u8>> {
    let records = split(Path::new("bundle"), bytes, 0, width).ok()?;
    let mut written = Vec::new();
    for record in records {
        written.extend_from_slice(&u16::try_from(record.len()).ok()?.to_be_bytes());
        written.extend_from_slice(record);
    }
    Some(written)
}

/// The two files of a segment with these records: entries, and index.
///
/// # Errors
/// Refuses a record that fits no bundle.
pub fn sealed(records: &[Vec<u8>]) -> Result<(Vec<u8>, Vec<u8>), LedgerError> {
    let (mut entries, mut index) = (EntriesWriter::new(ORIGIN, 0)?, IndexWriter::default());
    for (at, record) in (0..).zip(records) {
        entries.push(record)?;
        index.push(&Stored::new(at, record, None));
    }
    Ok((entries.finish()?, index.finish(ORIGIN, 0)))
}

/// Every record of an entries file.
///
/// # Errors
/// What is wrong with it.
pub fn entries(path: &Path) -> Result<Vec<Vec<u8>>, LedgerError> {
    let entries = Entries::open_part(path.to_owned(), ORIGIN, 0)?;
    let mut all = Vec::new();
    while all.len() < entries.count() as usize {
        let some = entries.read_from(all.len() as u64, 512)?;
        if some.is_empty() {
            break;
        }
        all.extend(some.iter().map(|stored| stored.bytes().to_vec()));
    }
    Ok(all)
}

/// Gives an index file the checksums that it has, so that what stands behind them is read.
pub fn repair_index(bytes: &mut [u8]) {
    let head = HEAD_BYTES - 4;
    for row in (head - SECTIONS * SECTION_BYTES..head).step_by(SECTION_BYTES) {
        let number = |at: usize| {
            let number = bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
            number.and_then(|number| usize::try_from(number).ok())
        };
        let section = number(row).zip(number(row + 8));
        let section = section.and_then(|(offset, len)| bytes.get(offset..offset.checked_add(len)?));
        if let Some(crc) = section.map(crc32c::crc32c) {
            bytes[row + 16..row + 20].copy_from_slice(&crc.to_le_bytes());
        }
    }
    if let Some((head, rest)) = bytes.split_at_mut_checked(head)
        && let Some(place) = rest.first_chunk_mut()
    {
        *place = crc32c::crc32c(head).to_le_bytes();
    }
}

/// Reads some rows of all columns; the numbers that were answered.
fn rows_of(columns: &Columns<'_>) -> usize {
    let mut answered = 0;
    for at in [0, 1, 511, u16::MAX] {
        for part in [Part::Kinds, Part::Times, Part::NotAfter, Part::NotBefore] {
            answered += columns.value(part, at).map_or(0, |_| 1);
        }
        for part in [Part::Identities, Part::Agents, Part::Entries] {
            answered += columns.name(part, at).map_or(0, |_| 1);
        }
        answered += columns.instance(at).map_or(0, |_| 1);
        answered += columns.issuer(at).map_or(0, |_| 1);
        answered += columns.serial(at).map_or(0, |_| 1);
    }
    answered
}

/// Asks an index file everything that is ever asked of one; the numbers that were answered.
///
/// # Errors
/// What is wrong with its head; what is wrong behind it is no error here.
pub fn index(path: &Path) -> Result<usize, LedgerError> {
    let index = SealedIndex::open_part(path.to_owned(), ORIGIN, 0)?;
    let mut answered = 0;
    for part in [
        Part::Kinds,
        Part::Times,
        Part::NotAfter,
        Part::NotBefore,
        Part::Instances,
        Part::Issuers,
    ] {
        answered += index.numbers(part).map_or(0, |numbers| numbers.len());
    }
    for rows in [1, 1_000_000] {
        answered += rows_of(&Columns::for_rows(&index, rows));
    }
    for part in [Part::SerialTable, Part::KeyTable, Part::RequestTable] {
        answered += index.keys(part).map_or(0, |keys| keys.len());
    }
    let mut places = Vec::new();
    for (_, serial) in index.serials().unwrap_or_default().into_iter().take(16) {
        places.extend(index.places_of_serial(&serial).unwrap_or_default());
    }
    if let Ok(serial) = Serial::from_be_octets(&[1; 16]) {
        places.extend(index.places_of_serial(&serial).unwrap_or_default());
    }
    for octet in [0, 127, 255] {
        let key = SpkiHash::new([octet; 32]);
        places.extend(index.places_of_key(&key).unwrap_or_default());
        places.extend(
            index
                .places_of_request(u32::from_be_bytes([octet; 4]))
                .unwrap_or_default(),
        );
    }
    for part in [Part::Identities, Part::Agents, Part::Entries] {
        for name in ["", "web-1", "spiffe://dev.test/web"] {
            answered += usize::from(index.find(part, name).is_ok_and(|found| found.is_some()));
        }
        answered += index.names(part).map_or(0, |names| names.len());
        for number in [1, 2, u32::MAX] {
            let _ = index.name(part, number);
            places.extend(index.places_of_name(part, number).unwrap_or_default());
        }
    }
    Ok(answered + places.len())
}

/// Gathers what a scan meets.
#[derive(Default)]
struct Gathered(Vec<Vec<u8>>);

impl Visitor for Gathered {
    fn record(&mut self, record: &Found<'_>, _: u64) -> Result<(), LedgerError> {
        self.0.push(record.bytes.to_vec());
        Ok(())
    }

    fn wants_root(&self, _: u64) -> bool {
        true
    }

    fn root(&mut self, _: u64, _: Hash) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// The records of a write-ahead file of this log as recovery finds it, and how many octets are of whole groups.
///
/// # Errors
/// What is wrong with it.
pub fn wal_file(bytes: &[u8], origin: &Origin) -> Result<(Vec<Vec<u8>>, usize), LedgerError> {
    let expect = Expect {
        number: 1,
        origin_hash: sha256(origin.as_str().as_bytes()),
        base: 0,
    };
    let mut gathered = Gathered::default();
    let scanned = scan(Path::new("00000001.wal"), bytes, &expect, &mut gathered)?;
    if scanned.ending == Ending::Truncated {
        return Err(LedgerError::format("write-ahead file", "ends where space was reserved"));
    }
    let end = usize::try_from(scanned.end).unwrap_or(usize::MAX);
    Ok((gathered.0, end))
}

/// Gives each frame of a write-ahead file, as far as their lengths lead, the checksum that it has, so that what stands in them is
/// read.
pub fn repair_wal(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        let word = u32::from_le_bytes(*head);
        if word == 0 {
            // Space that nothing was written to.
            return;
        }
        let (kind, len) = (word >> 28, (word & 0x0fff_ffff) as usize);
        let kinds = [
            FrameKind::Header,
            FrameKind::Record,
            FrameKind::GroupHead,
            FrameKind::Trailer,
            FrameKind::Next,
        ];
        let Some(kind) = kinds.into_iter().find(|known| *known as u32 == kind) else {
            return;
        };
        let payload = at + FRAME_HEAD..(at + FRAME_HEAD).saturating_add(len);
        let Some(checksum) = bytes.get(payload.clone()).map(|octets| frame_checksum(kind, octets)) else {
            return;
        };
        bytes[at + 4..at + 8].copy_from_slice(&checksum.to_le_bytes());
        at = payload.end;
    }
}

/// The hashes of a tile whose file holds these octets: above the first level, and as the second of a file of the first level.
///
/// # Errors
/// Fails when the file cannot be written or read.
pub fn tile(dir: &Path, bytes: &[u8]) -> Result<[Option<Vec<Hash>>; 2], LedgerError> {
    let mut read = [None, None];
    for (found, (level, index)) in read.iter_mut().zip([(1, 0), (0, 1)]) {
        let (path, offset) = tile_file(dir, level, index);
        let folder = path.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(LedgerError::io("make", folder))?;
        let mut file = vec![7; usize::try_from(offset).unwrap_or(0)];
        file.extend_from_slice(bytes);
        std::fs::write(&path, file).map_err(LedgerError::io("write", &path))?;
        *found = read_tile(dir, level, index)?;
    }
    Ok(read)
}
