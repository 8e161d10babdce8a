//! Files whose records are sealed, and a disk that does not remove them, or says so: nothing is lost, nothing is there twice, and
//! the removal is tried again.

use std::{
    fs,
    sync::{Arc, atomic::Ordering},
};

use super::{
    damage::release_first,
    kit::{Fault, Faulty, Place, contents, integrate, key, keys, origin, trees},
    segments::{SEGMENT, filled, small_files},
    shards::{append, roll},
};
use crate::{
    FileJournal, Journal, LedgerError, LogKeys, OpenOptions, Query, Sealer, Search, Sink, Trees, samples, verify,
};

/// Records of the two closed shards, and of all three.
const CLOSED: u64 = 137;
const ALL: u64 = 157;

fn small(faulty: &Faulty) -> OpenOptions {
    OpenOptions {
        file_bytes: 16 * 1024,
        ..faulty.options()
    }
}

/// Three shards in several files each, of which nothing is sealed.
fn unsealed(place: &Place) -> Arc<LogKeys> {
    let journal = Arc::new(place.create(small(&Faulty::new())));
    let (trees, keys) = (trees(&journal), keys());
    for (number, groups) in [(1, 4), (2, 3), (3, 1)] {
        (0..groups).for_each(|_| append(&journal, 19));
        match number {
            3 => {}
            _ => drop(roll(&journal, &keys, number).unwrap()),
        }
    }
    integrate(&journal, &trees, Some(keys.clone()));
    keys
}

fn opened(place: &Place, faulty: &Faulty, keys: &Arc<LogKeys>) -> (Arc<FileJournal>, Arc<Trees>) {
    let journal = Arc::new(FileJournal::open(&place.ledger(), small(faulty)).unwrap());
    let trees = trees(&journal);
    integrate(&journal, &trees, Some(keys.clone()));
    (journal, trees)
}

/// The files of the closed shards that are still there.
fn left(place: &Place) -> usize {
    let count = |shard: &str| {
        let head = place.ledger().join("a1b2").join(shard).join("head");
        fs::read_dir(head).map_or(0, Iterator::count)
    };
    count("2025-12") + count("2026-01")
}

/// That every record is there once, however it is asked for.
fn check_whole(journal: &FileJournal, before: &[Vec<u8>], what: &str) {
    assert!(contents(journal)[..] == *before, "{what}");
    let positions: Vec<u64> = (0..before.len() as u64).rev().collect();
    let each = journal.read_each(&positions).unwrap();
    assert!(
        each.iter().rev().map(|stored| stored.bytes()).eq(before.iter()),
        "{what}"
    );
    let search = Search::over(journal.segments().clone()).unwrap();
    let query = Query {
        serial: Some(samples::serial(30)),
        ..Query::default()
    };
    let rows = search.query(&query, None, 10).unwrap().rows;
    assert_eq!(rows.iter().map(|hit| hit.index).collect::<Vec<_>>(), [30], "{what}");
}

#[test]
fn a_removal_that_fails_loses_nothing_and_is_tried_again() {
    let place = Place::new();
    let keys = unsealed(&place);
    for fault in [Fault::Lost, Fault::DoneButReported] {
        for call in 1.. {
            let what = format!("{call} {fault:?}");
            let (copy, faulty) = (place.copy(), Faulty::new());
            let (journal, trees) = opened(&copy, &faulty, &keys);
            let before = contents(&*journal);
            let mut sealer = Sealer::new(journal.clone(), trees);
            while sealer.seal_next().unwrap() {}
            assert_eq!((journal.segments().end(), left(&copy) > 4), (CLOSED, true));
            let calls = faulty.0.calls.load(Ordering::SeqCst);
            faulty.0.fail_at(calls + call, fault);
            let told = journal.release_sealed();
            if faulty.0.calls.load(Ordering::SeqCst) - calls < call {
                told.unwrap();
                assert!(call > 8, "each file is removed and its folder flushed: {call}");
                break;
            }
            assert!(matches!(told, Err(LedgerError::Io { .. })), "{what}: {told:?}");
            check_whole(&journal, &before, &what);
            verify(&copy.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
            if call % 2 == 0 {
                journal.release_sealed().unwrap();
                assert_eq!(left(&copy), 0, "{what}");
                check_whole(&journal, &before, &what);
            }
            append(&journal, 3);
            let before = contents(&*journal);
            drop((sealer, journal));
            let (journal, _) = opened(&copy, &Faulty::new(), &keys);
            assert_eq!(left(&copy), 0, "{what}");
            check_whole(&journal, &before, &what);
            drop(journal);
            verify(&copy.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
        }
    }
}

#[test]
fn a_disk_that_removes_nothing_hinders_neither_sealing_nor_a_start() {
    let place = Place::new();
    let keys = unsealed(&place);
    let faulty = Faulty::new();
    let refuse = |times| faulty.0.no_removal.store(times, Ordering::SeqCst);
    let (journal, trees) = opened(&place, &faulty, &keys);
    let (before, files) = (contents(&*journal), left(&place));
    assert_eq!(before.len() as u64, ALL);
    let mut sealer = Sealer::new(journal.clone(), trees);
    refuse(u64::MAX);
    let mut failed = 0;
    while journal.segments().end() < CLOSED {
        failed += usize::from(sealer.caught_up().is_err());
        assert!(failed < 9, "no segment is sealed");
    }
    assert!(sealer.caught_up().is_err(), "it is told");
    assert_eq!(left(&place), files);
    check_whole(&journal, &before, "sealed");
    drop((sealer, journal));

    refuse(u64::MAX);
    let (journal, _) = opened(&place, &faulty, &keys);
    assert_eq!(left(&place), files);
    check_whole(&journal, &before, "a start that could not remove");
    append(&journal, 4);
    let before = contents(&*journal);
    drop(journal);
    verify(&place.ledger(), None, &mut ()).unwrap();

    refuse(0);
    let (journal, _) = opened(&place, &faulty, &keys);
    assert_eq!(left(&place), 0, "the next start removes");
    check_whole(&journal, &before, "a start that could");
}

#[test]
fn files_that_stayed_and_then_went_with_their_records_are_not_asked_for_again() {
    let place = Place::new();
    let keys = unsealed(&place);
    let faulty = Faulty::new();
    let (journal, trees) = opened(&place, &faulty, &keys);
    let before = contents(&*journal);
    let mut sealer = Sealer::new(journal.clone(), trees);
    while sealer.seal_next().unwrap() {}
    faulty.0.no_removal.store(1, Ordering::SeqCst);
    assert!(journal.release_sealed().is_err());
    release_first(&journal).unwrap();
    journal.release_sealed().unwrap();
    assert_eq!(left(&place), 0);
    let kept = journal.read_from(journal.first(), 500).unwrap();
    let kept: Vec<_> = kept.iter().map(|stored| stored.bytes().to_vec()).collect();
    assert!(kept[..] == before[usize::try_from(journal.first()).unwrap()..][..kept.len()]);
    drop((sealer, journal));
    verify(&place.ledger(), None, &mut ()).unwrap();
}

#[test]
fn files_of_the_log_that_is_written_are_removed_by_the_next_start_or_look() {
    let place = Place::new();
    drop(filled(&place, small_files(), SEGMENT + 2000));
    let wals = |place: &Place| fs::read_dir(place.shard().join("head")).unwrap().count();
    for fault in [Fault::Lost, Fault::DoneButReported] {
        for (call, again) in [(1, true), (1, false), (4, false), (5, true)] {
            let what = format!("{call} {fault:?} {again}");
            let (copy, faulty) = (place.copy(), Faulty::new());
            let options = || OpenOptions {
                file_bytes: small_files().file_bytes,
                ..faulty.options()
            };
            let journal = Arc::new(FileJournal::open(&copy.ledger(), options()).unwrap());
            let trees_now = trees(&journal);
            integrate(&journal, &trees_now, Some(keys()));
            let before = contents(&*journal);
            Sealer::new(journal.clone(), trees_now).seal_next().unwrap();
            let many = wals(&copy);
            faulty.0.fail_at(faulty.0.calls.load(Ordering::SeqCst) + call, fault);
            assert!(journal.release_sealed().is_err(), "{what}");
            assert!(wals(&copy) > many / 2, "{what}: one failed, so those after it stay");
            assert!(contents(&*journal) == before, "{what}");
            if again {
                journal.release_sealed().unwrap();
                assert!(wals(&copy) < many / 2, "{what}");
            }
            drop(journal);
            verify(&copy.ledger(), None, &mut ()).unwrap();
            let journal = Arc::new(FileJournal::open(&copy.ledger(), options()).unwrap());
            assert!(contents(&*journal) == before, "{what}");
            integrate(&journal, &trees(&journal), Some(keys()));
            journal.release_sealed().unwrap();
            assert!(wals(&copy) < many / 2, "{what}");
            assert!(contents(&*journal) == before, "{what}");
        }
    }
}
