//! Records put together for the file, and taken out again.

use super::kit::{issue, record};
use crate::{batch::Batch, kind::Kind, record::EncodedRecord, wal::read_frame};

#[test]
fn a_batch_is_the_frames_of_its_records_and_gives_each_back() {
    let records: Vec<EncodedRecord> = (1..=5).map(issue).collect();
    let batch = Batch::of(&records);
    assert_eq!((batch.len(), batch.is_restricting()), (5, false));
    let sum: usize = records.iter().map(EncodedRecord::encoded_len).sum();
    assert_eq!(batch.record_bytes(), sum);
    let mut rest = &batch.frames()[..];
    for (at, record) in records.iter().enumerate() {
        let frame = read_frame(rest).unwrap();
        assert_eq!(frame.payload, &record.bytes()[..]);
        rest = &rest[frame.len()..];
        let stored = batch.stored(70, at).unwrap();
        assert_eq!((stored.index(), stored.bytes()), (70 + at as u64, &record.bytes()[..]));
        assert_eq!(
            (stored.leaf_hash(), batch.len_of(at)),
            (record.leaf_hash(), record.encoded_len())
        );
    }
    assert!(rest.is_empty() && batch.stored(70, 5).is_none());
}

#[test]
fn some_of_a_batch_are_the_batch_of_these() {
    let mut records: Vec<EncodedRecord> = (1..=4).map(issue).collect();
    records.push(record(Kind::AgentBan, 5));
    let all = Batch::of(&records);
    assert!(all.is_restricting());
    let some = all.only([0, 2, 3].into_iter());
    let expected = Batch::of([&records[0], &records[2], &records[3]]);
    assert_eq!(some.frames(), expected.frames());
    assert!(!some.is_restricting() && some.len() == 3);
    assert!(all.only(std::iter::empty()).is_empty());
}
