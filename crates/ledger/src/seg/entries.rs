//! The records of a sealed segment, in frames of 512 that are compressed one by one.
//!
//! ```text
//! label | frames u32 | offset of the table u64 | crc32c of all before u32
//! frame...                 zstd of [length u16 BE][record]..., as in the entry bundles of C2SP tlog-tiles
//! table                    for each frame: end offset u64 | crc32c u32, and at last crc32c of the table u32
//! ```
//! A frame is two entry bundles: larger frames save 2 % and make reading one record dearer.

use std::path::PathBuf;

use crate::{
    LedgerError,
    journal::Stored,
    layout::Shard,
    limits::RECORD_BYTES_MAX,
    seg::{Bytes, LABEL_BYTES, Label, Role, Sealed, Segment},
};

const MAGIC: [u8; 16] = *b"mintage entries1";
/// Records of one frame.
pub(crate) const FRAME_RECORDS: usize = 512;
/// Level 3 of zstd: level 1 takes 2 % more space and half the time, level 6 saves 1 % at four times the time.
const LEVEL: i32 = 3;
const HEAD_BYTES: usize = LABEL_BYTES + 4 + 8 + 4;
const ROW_BYTES: usize = 8 + 4;

fn label(origin_hash: [u8; 32], first: u64, count: u32) -> Label {
    Label {
        magic: MAGIC,
        origin_hash,
        first,
        count,
    }
}

/// Compresses records into the bytes of an entries file.
pub(crate) struct EntriesWriter {
    origin_hash: [u8; 32],
    first: u64,
    count: u32,
    zstd: zstd::bulk::Compressor<'static>,
    /// The file from behind its head on.
    body: Vec<u8>,
    frame: Vec<u8>,
    in_frame: usize,
    table: Vec<u8>,
}

impl EntriesWriter {
    pub(crate) fn new(origin_hash: [u8; 32], first: u64) -> Result<Self, LedgerError> {
        let zstd = zstd::bulk::Compressor::new(LEVEL).map_err(LedgerError::io("start compression of", "records"))?;
        Ok(Self {
            origin_hash,
            first,
            count: 0,
            zstd,
            body: Vec::new(),
            frame: Vec::new(),
            in_frame: 0,
            table: Vec::new(),
        })
    }

    pub(crate) fn push(&mut self, record: &[u8]) -> Result<(), LedgerError> {
        let len = u16::try_from(record.len())
            .map_err(|_| LedgerError::Record(format!("a record of {} bytes fits no entry bundle", record.len())))?;
        self.frame.extend_from_slice(&len.to_be_bytes());
        self.frame.extend_from_slice(record);
        self.count += 1;
        self.in_frame += 1;
        if self.in_frame == FRAME_RECORDS {
            self.end_frame()?;
        }
        Ok(())
    }

    fn end_frame(&mut self) -> Result<(), LedgerError> {
        let packed = self.zstd.compress(&self.frame);
        let packed = packed.map_err(LedgerError::io("compress", "records"))?;
        self.body.extend_from_slice(&packed);
        let end = (HEAD_BYTES + self.body.len()) as u64;
        self.table.extend_from_slice(&end.to_le_bytes());
        self.table.extend_from_slice(&crc32c::crc32c(&packed).to_le_bytes());
        self.frame.clear();
        self.in_frame = 0;
        Ok(())
    }

    /// The whole file.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, LedgerError> {
        if self.in_frame > 0 {
            self.end_frame()?;
        }
        let mut file = Vec::with_capacity(HEAD_BYTES + self.body.len() + self.table.len() + 4);
        label(self.origin_hash, self.first, self.count).put(&mut file);
        let frames = (self.table.len() / ROW_BYTES) as u32;
        file.extend_from_slice(&frames.to_le_bytes());
        file.extend_from_slice(&((HEAD_BYTES + self.body.len()) as u64).to_le_bytes());
        let crc = crc32c::crc32c(&file);
        file.extend_from_slice(&crc.to_le_bytes());
        file.append(&mut self.body);
        file.extend_from_slice(&self.table);
        file.extend_from_slice(&crc32c::crc32c(&self.table).to_le_bytes());
        Ok(file)
    }
}

/// An entries file, read in place.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(super) sealed: Sealed,
    /// End offset and checksum of each frame.
    frames: Vec<(u64, u32)>,
    /// How often a frame was unpacked.
    #[cfg(test)]
    pub(crate) unpacked: std::sync::atomic::AtomicU64,
}

impl Entries {
    /// Reads head and table; the frames are checked as they are read.
    pub(crate) fn open(shard: &Shard, segment: Segment) -> Result<Self, LedgerError> {
        Self::open_labelled(
            segment.entries(shard),
            label(shard.origin_hash(), segment.first(), 0),
            shard.base,
        )
    }

    /// Opens the entries of the segment that a file beside them is made of.
    pub(super) fn of(derived: &Sealed) -> Result<Self, LedgerError> {
        Self::open_labelled(
            derived.path.with_extension("entries.zst"),
            label(derived.label.origin_hash, derived.label.first, 0),
            derived.base(),
        )
    }

    /// Opens a file that is no segment of a shard.
    pub(crate) fn open_part(path: PathBuf, origin_hash: [u8; 32], first: u64) -> Result<Self, LedgerError> {
        Self::open_labelled(path, label(origin_hash, first, 0), 0)
    }

    fn open_labelled(path: PathBuf, label: Label, base: u64) -> Result<Self, LedgerError> {
        let (sealed, head) = Sealed::open_head(path, label, base, Role::Truth, HEAD_BYTES)?;
        let mut rest = Bytes(&head);
        let (frames, table_at) = (rest.u32().unwrap_or(0), rest.u64().unwrap_or(0));
        if frames as usize != (sealed.count() as usize).div_ceil(FRAME_RECORDS)
            || sealed.len != table_at.saturating_add(u64::from(frames) * ROW_BYTES as u64 + 4)
        {
            return Err(sealed.corrupt(0, "the file has another length than its head says"));
        }
        let table = sealed.read(table_at, u64::from(frames) * ROW_BYTES as u64 + 4)?;
        let (rows, stored) = table.split_at(table.len() - 4);
        if stored != crc32c::crc32c(rows).to_le_bytes() {
            return Err(sealed.corrupt(table_at, "the table of frames has another checksum"));
        }
        let frames = rows
            .chunks_exact(ROW_BYTES)
            .map(|row| {
                let mut row = Bytes(row);
                (row.u64().unwrap_or(0), row.u32().unwrap_or(0))
            })
            .collect();
        Ok(Self {
            sealed,
            frames,
            #[cfg(test)]
            unpacked: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Number of records.
    pub(crate) fn count(&self) -> u32 {
        self.sealed.count()
    }

    /// Position of the first record.
    pub(crate) fn first(&self) -> u64 {
        self.sealed.first
    }

    /// Position behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.first() + u64::from(self.count())
    }

    /// The records of one frame, from its number on.
    pub(crate) fn frame(&self, number: usize) -> Result<Vec<Stored>, LedgerError> {
        let packed = self.packed(number)?;
        let bad = |problem: &str| self.bad_frame(number, problem);
        let count = self.count_in(number);
        let most = count * (2 + RECORD_BYTES_MAX);
        let plain = zstd::bulk::decompress(&packed, most.min(unpacked_size(&packed).unwrap_or(most)));
        let plain = plain.map_err(|_| bad("a frame of records cannot be unpacked"))?;
        self.count_unpacked();
        let first = self.first_of(number);
        let mut rest = plain.as_slice();
        let mut records = Vec::with_capacity(count);
        for index in first..first + count as u64 {
            let record = take_entry(&mut rest).ok_or_else(|| bad("a frame holds fewer records than it should"))?;
            records.push(Stored::new(index, record, None));
        }
        match rest.is_empty() {
            true => Ok(records),
            false => Err(bad("a frame holds more than its records")),
        }
    }

    /// The packed octets of a frame, whose checksum is right.
    fn packed(&self, number: usize) -> Result<Vec<u8>, LedgerError> {
        let beyond = LedgerError::Beyond {
            what: "frame",
            asked: number as u64,
            have: self.frames.len() as u64,
        };
        let (end, crc) = *self.frames.get(number).ok_or(beyond)?;
        let begin = self.begin_of(number);
        let packed = self.sealed.read(begin, end.saturating_sub(begin))?;
        match crc32c::crc32c(&packed) == crc {
            true => Ok(packed),
            false => Err(self.bad_frame(number, "a frame of records has another checksum")),
        }
    }

    /// Where a frame begins in the file.
    fn begin_of(&self, number: usize) -> u64 {
        match number.checked_sub(1) {
            None => HEAD_BYTES as u64,
            Some(before) => self.frames.get(before).map_or(0, |(end, _)| *end),
        }
    }

    /// Position of a frame's first record.
    fn first_of(&self, number: usize) -> u64 {
        self.first() + (number * FRAME_RECORDS) as u64
    }

    /// Records of a frame.
    fn count_in(&self, number: usize) -> usize {
        (self.count() as usize)
            .saturating_sub(number * FRAME_RECORDS)
            .min(FRAME_RECORDS)
    }

    fn bad_frame(&self, number: usize, problem: &str) -> LedgerError {
        LedgerError::Corrupt {
            path: self.sealed.path.clone(),
            offset: self.begin_of(number),
            index: self.first_of(number),
            problem: problem.into(),
        }
    }

    fn count_unpacked(&self) {
        #[cfg(test)]
        self.unpacked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// The frame that holds a position.
    pub(crate) fn frame_of(&self, position: u64) -> usize {
        usize::try_from(position.saturating_sub(self.first())).unwrap_or(usize::MAX) / FRAME_RECORDS
    }

    /// At most `max` records from position `index` on, of one frame.
    pub(crate) fn read_from(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        let number = self.frame_of(index);
        let end = self.first_of(number) + self.count_in(number) as u64;
        let positions: Vec<u64> = (index..end).take(max).collect();
        self.read_each(&positions)
    }

    /// The records at these positions, all of one frame, in the order they are named. The frame is unpacked once, and no
    /// further than to the last of them.
    pub(crate) fn read_each(&self, positions: &[u64]) -> Result<Vec<Stored>, LedgerError> {
        let (Some(some), Some(last)) = (positions.first(), positions.iter().max()) else {
            return Ok(Vec::new());
        };
        let number = self.frame_of(*some);
        let first = self.first_of(number);
        let packed = self.packed(number)?;
        let bad = |problem: &str| self.bad_frame(number, problem);
        let beyond = |asked: u64| LedgerError::Beyond {
            what: "record of a frame",
            asked,
            have: first + self.count_in(number) as u64,
        };
        let count = last
            .checked_sub(first)
            .and_then(|at| usize::try_from(at + 1).ok())
            .filter(|count| *count <= self.count_in(number))
            .ok_or_else(|| beyond(*last))?;
        self.count_unpacked();
        let mut unpacking = Unpacking::new(&packed).map_err(|_| bad("a frame of records cannot be unpacked"))?;
        let mut spans = Vec::with_capacity(count);
        while spans.len() < count {
            let span = unpacking.entry().map_err(bad)?;
            spans.push(span);
        }
        let stored = |position: &u64| {
            let at = position.checked_sub(first).and_then(|at| usize::try_from(at).ok());
            let span = at.and_then(|at| spans.get(at)).ok_or_else(|| beyond(*position))?;
            Ok(Stored::new(*position, &unpacking.plain[span.clone()], None))
        };
        positions.iter().map(stored).collect()
    }
}

/// A frame that is unpacked from its front only so far as somebody needs it.
struct Unpacking<'a> {
    zstd: zstd::stream::raw::Decoder<'static>,
    packed: &'a [u8],
    plain: Vec<u8>,
    /// End of the last entry that was taken.
    taken: usize,
}

impl<'a> Unpacking<'a> {
    /// Octets that are unpacked at a time: the largest block of the format.
    const STEP: usize = 128 * 1024;

    fn new(packed: &'a [u8]) -> std::io::Result<Self> {
        Ok(Self {
            zstd: zstd::stream::raw::Decoder::new()?,
            packed,
            plain: Vec::new(),
            taken: 0,
        })
    }

    /// Where the next entry stands in what is unpacked.
    fn entry(&mut self) -> Result<std::ops::Range<usize>, &'static str> {
        loop {
            let mut rest = &self.plain[self.taken..];
            if let Some(record) = take_entry(&mut rest) {
                let end = self.plain.len() - rest.len();
                self.taken = end;
                return Ok(end - record.len()..end);
            }
            self.unpack()?;
        }
    }

    fn unpack(&mut self) -> Result<(), &'static str> {
        use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
        let before = self.plain.len();
        self.plain.resize(before + Self::STEP, 0);
        let mut from = InBuffer::around(self.packed);
        let mut to = OutBuffer::around(&mut self.plain[before..]);
        let run = self.zstd.run(&mut from, &mut to);
        let (read, written) = (from.pos(), to.pos());
        self.plain.truncate(before + written);
        self.packed = &self.packed[read..];
        match run {
            Err(_) => Err("a frame of records cannot be unpacked"),
            Ok(_) if read == 0 && written == 0 => Err("a frame holds fewer records than it should"),
            Ok(_) => Ok(()),
        }
    }
}

/// The size that a frame says it has unpacked: a buffer of that size is enough, and a lie is refused by the unpacking.
fn unpacked_size(packed: &[u8]) -> Option<usize> {
    zstd::zstd_safe::get_frame_content_size(packed)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, tail) = rest.split_first_chunk::<2>()?;
    let (record, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    *rest = tail;
    Some(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        origin::Origin,
        samples,
        tests::kit::{key, origin},
    };

    const SEGMENT: Segment = Segment(1);

    fn shard(dir: &std::path::Path) -> Shard {
        let shard = Shard::new(dir, key().vkey(&origin()), 100).unwrap();
        std::fs::create_dir_all(shard.dir.join("seg")).unwrap();
        shard
    }

    fn records(count: u64) -> Vec<Vec<u8>> {
        let encode = |seed| samples::issue(seed, "spiffe://dev.test/web", "web-1").encode().unwrap();
        (0..count).map(|seed| encode(seed).bytes().to_vec()).collect()
    }

    fn file(records: &[Vec<u8>]) -> Vec<u8> {
        let hash = shard(tempfile::tempdir().unwrap().path()).origin_hash();
        let mut writer = EntriesWriter::new(hash, SEGMENT.first()).unwrap();
        records.iter().for_each(|record| writer.push(record).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, LedgerError> {
        let dir = tempfile::tempdir().unwrap();
        let shard = shard(dir.path());
        std::fs::write(SEGMENT.entries(&shard), bytes).unwrap();
        let entries = Entries::open(&shard, SEGMENT)?;
        let mut all = Vec::new();
        while all.len() < entries.count() as usize {
            let some = entries.read_from(65_636 + all.len() as u64, 300)?;
            assert_eq!(some[0].index(), 65_636 + all.len() as u64);
            all.extend(some.iter().map(|stored| stored.bytes().to_vec()));
        }
        Ok(all)
    }

    #[test]
    fn what_is_written_is_read_at_every_length_around_a_frame() {
        for count in [1, 2, 511, 512, 513, 1024, 1300] {
            let records = records(count);
            assert_eq!(read(&file(&records)).unwrap(), records);
        }
    }

    #[test]
    fn records_of_one_frame_cost_one_unpacking() {
        let dir = tempfile::tempdir().unwrap();
        let shard = shard(dir.path());
        let records = records(1300);
        std::fs::write(SEGMENT.entries(&shard), file(&records)).unwrap();
        let entries = Entries::open(&shard, SEGMENT).unwrap();
        let first = entries.first();
        let wanted: Vec<u64> = [511, 300, 17, 17, 0].map(|at| first + at).to_vec();
        let found = entries.read_each(&wanted).unwrap();
        let unpacked = || entries.unpacked.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(unpacked(), 1);
        for (position, stored) in wanted.iter().zip(&found) {
            assert_eq!(stored.index(), *position);
            assert_eq!(stored.bytes(), records[(position - first) as usize]);
        }
        // Neither another frame nor what is beyond the file.
        for wrong in [[first, first + 512], [first + 1299, first + 1300], [first, first - 1]] {
            assert!(entries.read_each(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(entries.read_each(&[]).unwrap().len(), 0);
    }

    #[test]
    fn a_file_of_another_log_or_place_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shard = shard(dir.path());
        std::fs::write(SEGMENT.entries(&shard), file(&records(3))).unwrap();
        let other = Shard {
            origin: Origin::parse("dev.test/mintage/a1b2/2026-01").unwrap(),
            ..shard.clone()
        };
        let refused = Entries::open(&other, SEGMENT).unwrap_err().to_string();
        assert!(refused.contains("another log"), "{refused}");
        std::fs::rename(SEGMENT.entries(&shard), Segment(0).entries(&shard)).unwrap();
        let refused = Entries::open(&shard, Segment(0)).unwrap_err().to_string();
        assert!(refused.contains("another record"), "{refused}");
        let missing = Entries::open(&shard, SEGMENT);
        assert!(matches!(missing, Err(LedgerError::Missing { .. })));
    }

    proptest! {
        #![proptest_config(crate::tests::kit::few_cases())]

        #[test]
        fn every_flip_and_every_cut_is_noticed(at in any::<proptest::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
            let mut bytes = file(&records(700));
            let place = at.index(bytes.len());
            match cut {
                true => bytes.truncate(place),
                false => bytes[place] ^= 1 << bit,
            }
            prop_assert!(read(&bytes).is_err());
        }
    }
}
