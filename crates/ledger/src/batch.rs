//! Records of one submission in the form in which they are written. They are put so by whoever submits them: there many work
//! side by side, while the committer is one thread, which so has only the tree to hash and the disk to wait for.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use mintage_identity::UnixTime;

use crate::{
    journal::{Log, Stored},
    receipt::Receipt,
    record::EncodedRecord,
    tree::Hash,
    wal::FRAME_HEAD,
};

/// Records that stay together. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Their frames of the write-ahead file, one behind the other.
    frames: Bytes,
    records: Arc<[Framed]>,
}

/// What the committer has to know of a record that is among the frames.
#[derive(Clone, Debug)]
pub(crate) struct Framed {
    /// Where its bytes end; they begin behind the head of its frame.
    end: usize,
    pub(crate) leaf_hash: Hash,
    time: UnixTime,
    pub(crate) restricting: bool,
}

impl Batch {
    /// Puts records together in their order.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a EncodedRecord> + Clone) -> Self {
        let lengths = records.clone().into_iter().map(EncodedRecord::encoded_len);
        let mut frames = Vec::with_capacity(lengths.map(|len| FRAME_HEAD + len).sum());
        let framed = |record: &EncodedRecord| {
            record.put_frame(&mut frames);
            Framed {
                end: frames.len(),
                leaf_hash: record.leaf_hash(),
                time: record.time(),
                restricting: record.is_restricting(),
            }
        };
        Self {
            records: records.into_iter().map(framed).collect(),
            frames: frames.into(),
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of all records, without what stands around them in the file.
    pub fn record_bytes(&self) -> usize {
        self.frames.len().saturating_sub(FRAME_HEAD * self.len())
    }

    pub(crate) fn frames(&self) -> &Bytes {
        &self.frames
    }

    pub(crate) fn records(&self) -> &[Framed] {
        &self.records
    }

    /// True when decisions made before one of its records have to be made again.
    pub(crate) fn is_restricting(&self) -> bool {
        self.records.iter().any(|record| record.restricting)
    }

    /// Where the frame of a record lies.
    fn frame(&self, at: usize) -> Range<usize> {
        let before = at.checked_sub(1).and_then(|before| self.records.get(before));
        let begin = before.map_or(0, |record| record.end);
        begin..self.records.get(at).map_or(begin, |record| record.end)
    }

    /// The records at these places, in a batch of their own.
    pub(crate) fn only(&self, places: impl Iterator<Item = usize>) -> Self {
        let (mut frames, mut records) = (Vec::new(), Vec::new());
        for (at, record) in places.filter_map(|at| Some((at, self.records.get(at)?))) {
            frames.extend_from_slice(&self.frames[self.frame(at)]);
            records.push(Framed {
                end: frames.len(),
                ..record.clone()
            });
        }
        Self {
            frames: frames.into(),
            records: records.into(),
        }
    }

    /// A record in its place: the first of the batch has position `first`. It holds on to the whole batch.
    pub(crate) fn stored(&self, first: u64, at: usize) -> Option<Stored> {
        let record = self.records.get(at)?;
        let frame = self.frame(at);
        let bytes = self.frames.slice(frame.start + FRAME_HEAD..frame.end);
        Some(Stored::shared(first + at as u64, bytes, record.leaf_hash))
    }

    /// The receipt of a record, once the batch is durable in a log with its first record at position `first`.
    pub(crate) fn receipt(&self, log: &Arc<Log>, first: u64, at: usize) -> Option<Receipt> {
        let record = self.records.get(at)?;
        Some(Receipt::new(
            Arc::clone(log),
            first + at as u64,
            record.leaf_hash,
            record.time,
        ))
    }

    /// Length of a record in bytes.
    pub(crate) fn len_of(&self, at: usize) -> usize {
        self.frame(at).len().saturating_sub(FRAME_HEAD)
    }
}
