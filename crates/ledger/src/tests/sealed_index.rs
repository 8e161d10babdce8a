//! A sealed segment's search index: damage is mended from the records in service, and a lie is found offline.

use std::{fs, path::PathBuf, sync::Arc};

use super::{
    kit::{Fault, Faulty, Place},
    segments::{SEGMENT, filled, small_files},
};
use crate::{
    FileJournal, LedgerError, OpenOptions, Query, Sealer, Search, fuzzing, samples,
    seg::index::{HEAD_BYTES, SECTION_BYTES, SECTIONS},
    verify, verify_indexes,
};

/// A ledger with one sealed segment, and its index.
fn sealed() -> (Place, PathBuf) {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 10);
    assert!(Sealer::new(journal.clone(), tree).seal_next().unwrap());
    let index = crate::seg::Segment(0).index(&journal.shard());
    (place, index)
}

fn by_serial(seed: u64) -> Query {
    Query {
        serial: Some(samples::serial(seed)),
        ..Query::default()
    }
}

fn by_identity(id: &str) -> Query {
    Query {
        spiffe_id: Some(mintage_identity::SpiffeId::parse(id).unwrap()),
        ..Query::default()
    }
}

/// Flips a bit in the middle of every section, so that whatever a question reads is damaged.
fn damage(index: &PathBuf) -> Vec<u8> {
    let whole = fs::read(index).unwrap();
    let mut bad = whole.clone();
    for row in 0..SECTIONS {
        let at = HEAD_BYTES - 4 - (SECTIONS - row) * SECTION_BYTES;
        let number = |at: usize| u64::from_le_bytes(bad[at..at + 8].try_into().unwrap()) as usize;
        let (offset, len) = (number(at), number(at + 8));
        if len > 0 {
            bad[offset + len / 2] ^= 4;
        }
    }
    fs::write(index, bad).unwrap();
    whole
}

#[test]
fn damage_that_a_question_meets_is_mended_from_the_records_and_the_answer_is_whole() {
    let (place, index) = sealed();
    for query in [by_serial(40_000), by_identity("spiffe://dev.test/web")] {
        let journal = Arc::new(FileJournal::open(&place.ledger(), small_files()).unwrap());
        let search = Search::over(journal.segments().clone()).unwrap();
        let whole = search.query(&query, None, 100).unwrap().rows;
        assert!(!whole.is_empty());
        drop((journal, search));
        // A search that begins over damage, and one that meets it later.
        let original = damage(&index);
        let journal = Arc::new(FileJournal::open(&place.ledger(), small_files()).unwrap());
        let search = Search::over(journal.segments().clone()).unwrap();
        assert_eq!(fs::read(&index).unwrap(), original, "the index is as it was made");
        assert_eq!(search.query(&query, None, 100).unwrap().rows, whole);
        drop((journal, search));
        let journal = Arc::new(FileJournal::open(&place.ledger(), small_files()).unwrap());
        let search = Search::over(journal.segments().clone()).unwrap();
        damage(&index);
        assert_eq!(search.query(&query, None, 100).unwrap().rows, whole);
        fs::write(&index, original).unwrap();
    }
}

#[test]
fn an_index_that_cannot_be_mended_is_an_error_and_no_empty_answer() {
    let (place, index) = sealed();
    let original = damage(&index);
    let disk = Faulty::new();
    let options = OpenOptions {
        file_bytes: 4 << 20,
        ..disk.options()
    };
    let journal = Arc::new(FileJournal::open(&place.ledger(), options).unwrap());
    disk.0.fail_next(Fault::Full);
    let refused = Search::over(journal.segments().clone()).unwrap_err();
    assert!(matches!(refused, LedgerError::NoSpace), "{refused}");
    let search = Search::over(journal.segments().clone()).unwrap();
    assert_eq!(fs::read(&index).unwrap(), original, "there was room the second time");
    assert_eq!(search.query(&by_serial(40_000), None, 10).unwrap().rows.len(), 1);
}

#[test]
fn an_index_that_hides_a_record_under_right_checksums_is_found_by_the_verification() {
    let (place, index) = sealed();
    let original = damage(&index);
    let mut lie = fs::read(&index).unwrap();
    fuzzing::repair_index(&mut lie);
    fs::write(&index, &lie).unwrap();
    verify(&place.ledger(), None, &mut ()).unwrap();
    let refused = verify_indexes(&place.ledger(), &|| true).unwrap_err();
    assert!(
        matches!(&refused, LedgerError::Derived { path, index: 0, .. } if *path == index),
        "{refused}"
    );
    // What the message tells to do is what helps.
    fs::remove_file(&index).unwrap();
    drop(FileJournal::open(&place.ledger(), small_files()).unwrap());
    assert_eq!(fs::read(&index).unwrap(), original);
    assert_eq!(verify_indexes(&place.ledger(), &|| true).unwrap(), 1);
    assert_eq!(verify_indexes(&place.ledger(), &|| false).unwrap(), 0);
}

#[test]
fn an_index_of_an_earlier_version_is_made_again_by_its_owner_and_no_damage_to_a_reader() {
    let (place, index) = sealed();
    let original = fs::read(&index).unwrap();
    let mut older = original.clone();
    older[..16].copy_from_slice(b"mintage index 01");
    fs::write(&index, older).unwrap();
    assert_eq!(verify_indexes(&place.ledger(), &|| true).unwrap(), 0, "none to compare");
    drop(FileJournal::open(&place.ledger(), small_files()).unwrap());
    assert_eq!(fs::read(&index).unwrap(), original);
    assert_eq!(verify_indexes(&place.ledger(), &|| true).unwrap(), 1);
}
