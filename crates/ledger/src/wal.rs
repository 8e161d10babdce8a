//! Frames of a write-ahead file: `[length u32 LE][crc32c u32 LE][payload]`, the top four bits of the length being the
//! kind of frame. A file is a header and groups; a group is a head, its records and a trailer.
//!
//! The head says how far its group reaches, so recovery can tell a group torn by a crash, which has nothing after it,
//! from damage to an acknowledged one, which has. The trailer's tree size and root seal the group; its last byte is
//! never zero, so that a tail that was never written (space is zero-filled ahead) shows at once.

use crate::{
    limits::{RECORD_BYTES_MAX, WAL_BYTES_MAX},
    tree::{Frontier, Hash},
};

/// Bytes before a frame's payload.
pub(crate) const FRAME_HEAD: usize = 8;
const KIND_SHIFT: u32 = 28;
const LENGTH_MASK: u32 = (1 << KIND_SHIFT) - 1;
const MAGIC: &[u8; 16] = b"mintage ledger 1";
/// Payload of a group head: first index, record count, bytes of the whole group.
const GROUP_HEAD_BYTES: usize = 8 + 4 + 4;
/// Payload of a group trailer: tree size, root, mark.
const TRAILER_BYTES: usize = 8 + 32 + 1;
/// Payload of a next frame: the number of the next file, mark.
const NEXT_BYTES: usize = 8 + 1;
const MARK: u8 = 0xa5;
/// No log has more records: 100,000 a second for ninety years.
const SIZE_MAX: u64 = 1 << 48;
/// A header without its hashes: magic, number, first index, control index, previous length, reserve step, origin hash
/// and the number of hashes.
const HEADER_FIXED: usize = 16 + 8 * 5 + 32 + 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Record = 0,
    Header = 1,
    GroupHead = 2,
    Trailer = 3,
    Next = 4,
}

/// The first frame of a file: where it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader {
    /// Number of the file in its shard, from 1.
    pub(crate) number: u64,
    /// Control index before the file's first record.
    pub(crate) control_head: u64,
    /// Length of the file before this one up to its last trailer; 0 for the first.
    pub(crate) previous_len: u64,
    /// Space is reserved in steps of this many bytes; a shorter last step was cut off by a crash and holds no group.
    pub(crate) reserve: u64,
    /// SHA-256 of the origin line, so that files of two logs cannot be mixed.
    pub(crate) origin_hash: [u8; 32],
    /// The tree before the file's first record; its size is that record's index.
    pub(crate) frontier: Frontier,
}

/// The first frame of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHead {
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Bytes of the group, from this frame's first to the trailer's last.
    pub(crate) bytes: u32,
}

/// The last frame of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// A frame read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: FrameKind,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the frame with its head.
    pub(crate) fn len(&self) -> usize {
        FRAME_HEAD + self.payload.len()
    }
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoFrame {
    /// The bytes end before the frame does.
    Short,
    /// The length or kind cannot be, or the checksum differs.
    Bad,
}

fn kind_and_limit(length: u32) -> Option<(FrameKind, usize, usize)> {
    Some(match length >> KIND_SHIFT {
        0 => (FrameKind::Record, 1, RECORD_BYTES_MAX),
        1 => (FrameKind::Header, HEADER_FIXED, HEADER_FIXED + 64 * 32),
        2 => (FrameKind::GroupHead, GROUP_HEAD_BYTES, GROUP_HEAD_BYTES),
        3 => (FrameKind::Trailer, TRAILER_BYTES, TRAILER_BYTES),
        4 => (FrameKind::Next, NEXT_BYTES, NEXT_BYTES),
        _ => return None,
    })
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

/// Reads the frame at the start of `bytes`.
pub(crate) fn read_frame(bytes: &[u8]) -> Result<Frame<'_>, NoFrame> {
    let (head, rest) = bytes.split_first_chunk::<FRAME_HEAD>().ok_or(NoFrame::Short)?;
    let length = [head[0], head[1], head[2], head[3]];
    let stored = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let value = u32::from_le_bytes(length);
    let (kind, least, most) = kind_and_limit(value).ok_or(NoFrame::Bad)?;
    let len = (value & LENGTH_MASK) as usize;
    if !(least..=most).contains(&len) {
        return Err(NoFrame::Bad);
    }
    let payload = rest.get(..len).ok_or(NoFrame::Short)?;
    if checksum(length, payload) != stored {
        return Err(NoFrame::Bad);
    }
    Ok(Frame { kind, payload })
}

/// The first word of a frame: its kind and the payload's length.
fn length_word(kind: FrameKind, payload: &[u8]) -> [u8; 4] {
    // Payloads are at most 60 KB, so the length never reaches the kind's bits.
    ((kind as u32) << KIND_SHIFT | payload.len() as u32).to_le_bytes()
}

/// The checksum of a frame.
pub(crate) fn frame_checksum(kind: FrameKind, payload: &[u8]) -> u32 {
    checksum(length_word(kind, payload), payload)
}

/// Appends a frame to a buffer.
pub(crate) fn put_frame(out: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) {
    put_frame_checked(out, kind, payload, frame_checksum(kind, payload));
}

/// Appends a frame whose checksum was taken before.
pub(crate) fn put_frame_checked(out: &mut Vec<u8>, kind: FrameKind, payload: &[u8], checksum: u32) {
    out.extend_from_slice(&length_word(kind, payload));
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Bytes a group takes whose records' frames have these lengths.
pub(crate) fn group_bytes(frames: impl Iterator<Item = usize>) -> usize {
    let ends = 2 * FRAME_HEAD + GROUP_HEAD_BYTES + TRAILER_BYTES;
    frames.fold(ends, |sum, len| sum + len)
}

impl GroupHead {
    /// Bytes of the whole frame.
    pub(crate) const FRAME_BYTES: usize = FRAME_HEAD + GROUP_HEAD_BYTES;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let mut payload = [0; GROUP_HEAD_BYTES];
        payload[..8].copy_from_slice(&self.first.to_le_bytes());
        payload[8..12].copy_from_slice(&self.count.to_le_bytes());
        payload[12..].copy_from_slice(&self.bytes.to_le_bytes());
        put_frame(out, FrameKind::GroupHead, &payload);
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let head = Self {
            first: reader.u64()?,
            count: u32::from_le_bytes(reader.take()?),
            bytes: u32::from_le_bytes(reader.take()?),
        };
        reader.0.is_empty().then_some(head)
    }
}

impl Trailer {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let mut payload = [MARK; TRAILER_BYTES];
        payload[..8].copy_from_slice(&self.size.to_le_bytes());
        payload[8..40].copy_from_slice(self.root.as_bytes());
        put_frame(out, FrameKind::Trailer, &payload);
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        Some(Self {
            size: reader.u64()?,
            root: Hash::new(reader.take()?),
        })
    }
}

/// A file's last frame once the next file exists.
pub(crate) fn next_frame(number: u64) -> Vec<u8> {
    let mut payload = [MARK; NEXT_BYTES];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    let mut out = Vec::with_capacity(FRAME_HEAD + NEXT_BYTES);
    put_frame(&mut out, FrameKind::Next, &payload);
    out
}

impl WalHeader {
    /// Longest header frame in bytes.
    pub(crate) const FRAME_BYTES_MAX: usize = FRAME_HEAD + HEADER_FIXED + 64 * 32;

    pub(crate) fn to_frame(&self) -> Vec<u8> {
        let peaks = self.frontier.peaks();
        let mut payload = Vec::with_capacity(HEADER_FIXED + 32 * peaks.len());
        payload.extend_from_slice(MAGIC);
        for number in [
            self.number,
            self.frontier.size(),
            self.control_head,
            self.previous_len,
            self.reserve,
        ] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&self.origin_hash);
        payload.push(peaks.len() as u8);
        peaks.iter().for_each(|peak| payload.extend_from_slice(peak.as_bytes()));
        let mut out = Vec::with_capacity(FRAME_HEAD + payload.len());
        put_frame(&mut out, FrameKind::Header, &payload);
        out
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        if reader.take::<16>()? != *MAGIC {
            return None;
        }
        let (number, size, control_head) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (previous_len, reserve) = (reader.u64()?, reader.u64()?);
        let origin_hash = reader.take()?;
        let [count] = reader.take()?;
        let peaks = (0..count)
            .map(|_| reader.take().map(Hash::new))
            .collect::<Option<_>>()?;
        if !reader.0.is_empty() || !(1..=WAL_BYTES_MAX).contains(&reserve) || size > SIZE_MAX {
            return None;
        }
        Some(Self {
            number,
            control_head,
            previous_len,
            reserve,
            origin_hash,
            frontier: Frontier::from_parts(size, peaks).ok()?,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::leaf_hash;

    fn header() -> WalHeader {
        let mut frontier = Frontier::new();
        (0..77u8).for_each(|i| frontier.push(leaf_hash(&[i])));
        WalHeader {
            number: 3,
            control_head: 5,
            previous_len: 900,
            reserve: 4096,
            origin_hash: [7; 32],
            frontier,
        }
    }

    #[test]
    fn frames_round_trip() {
        let header = header();
        let frame = header.to_frame();
        let read = read_frame(&frame).unwrap();
        assert_eq!(read.kind, FrameKind::Header);
        assert_eq!(WalHeader::read(read.payload).unwrap(), header);
        let head = GroupHead {
            first: 77,
            count: 2,
            bytes: 300,
        };
        let trailer = Trailer {
            size: 79,
            root: Hash::new([4; 32]),
        };
        let mut out = Vec::new();
        head.put(&mut out);
        assert_eq!(out.len(), GroupHead::FRAME_BYTES);
        assert_eq!(GroupHead::read(read_frame(&out).unwrap().payload).unwrap(), head);
        out.clear();
        trailer.put(&mut out);
        assert_eq!(Trailer::read(read_frame(&out).unwrap().payload).unwrap(), trailer);
        assert_ne!(*out.last().unwrap(), 0);
    }

    #[test]
    fn zeros_are_no_frame_and_lengths_are_limited() {
        assert_eq!(read_frame(&[0; 64]).unwrap_err(), NoFrame::Bad);
        assert_eq!(read_frame(&[1; 7]).unwrap_err(), NoFrame::Short);
        let mut out = Vec::new();
        put_frame(&mut out, FrameKind::Record, &vec![1; RECORD_BYTES_MAX + 1]);
        assert_eq!(read_frame(&out).unwrap_err(), NoFrame::Bad);
        // A length field of four gigabytes.
        assert_eq!(read_frame(&[0xff; 64]).unwrap_err(), NoFrame::Bad);
    }

    proptest! {
        #[test]
        fn one_flipped_bit_is_always_seen(
            payload in proptest::collection::vec(any::<u8>(), 1..300), at in 0usize..3000, bit in 0u8..8,
        ) {
            let mut out = Vec::new();
            put_frame(&mut out, FrameKind::Record, &payload);
            prop_assert_eq!(read_frame(&out).unwrap().payload, &payload[..]);
            let place = at % out.len();
            out[place] ^= 1 << bit;
            prop_assert!(read_frame(&out).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_frame(&bytes);
            let _ = WalHeader::read(&bytes);
            let _ = GroupHead::read(&bytes);
            let _ = Trailer::read(&bytes);
        }
    }
}
