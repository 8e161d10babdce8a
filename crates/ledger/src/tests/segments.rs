//! Sealing: what is sealed is what was appended, at every point a crash can leave behind.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::kit::{Fault, Faulty, Place, campaign, contents, group, integrate, key, keys, options, trees};
use crate::{
    FileJournal, Journal, LedgerError, LocalDisk, OpenOptions, Query, Sealer, Search, Sink, Trees,
    limits::{GROUP_RECORDS_MAX, SEGMENT_RECORDS},
    samples, verify, verify_indexes,
};

pub(super) const SEGMENT: u64 = SEGMENT_RECORDS as u64;

/// A ledger of `count` records whose tree is complete and signed.
pub(super) fn filled(place: &Place, options: OpenOptions, count: u64) -> (Arc<FileJournal>, Arc<Trees>) {
    let journal = Arc::new(place.create(options));
    let mut at = 1;
    while at < count {
        let to = (at + GROUP_RECORDS_MAX as u64).min(count);
        journal.append(&group(at, to), 0).unwrap();
        at = to;
    }
    let trees = integrated(&journal);
    (journal, trees)
}

fn integrated(journal: &Arc<FileJournal>) -> Arc<Trees> {
    let trees = trees(journal);
    integrate(journal, &trees, Some(keys()));
    trees
}

pub(super) fn small_files() -> OpenOptions {
    OpenOptions {
        file_bytes: 4 << 20,
        ..options()
    }
}

fn wals(place: &Place) -> usize {
    std::fs::read_dir(place.shard().join("head")).unwrap().count()
}

#[test]
fn sealed_records_are_read_searched_verified_and_survive_a_restart() {
    let place = Place::new();
    let count = SEGMENT + 2000;
    let (journal, tree) = filled(&place, small_files(), count);
    let before = contents(&*journal);
    let (size, root) = (journal.size(), tree.growing().1.root().unwrap());
    let (many, mut sealer) = (wals(&place), Sealer::new(journal.clone(), tree.clone()));
    assert!(sealer.seal_next().unwrap());
    assert!(!sealer.seal_next().unwrap(), "the second segment is not full");
    journal.release_sealed().unwrap();
    assert!(wals(&place) < many / 2, "{} of {many} files are left", wals(&place));
    assert!(contents(&*journal) == before);
    assert_eq!(journal.segments().records(), SEGMENT);
    // From frames, files and memory, in the order they are named.
    let named = [SEGMENT + 1999, 3, 2, SEGMENT + 1, SEGMENT - 1, 600, 600, 0];
    let each = journal.read_each(&named).unwrap();
    for (position, stored) in named.iter().zip(&each) {
        assert_eq!(stored.index(), *position);
        assert!(stored.bytes() == before[*position as usize], "{position}");
    }
    assert_eq!(each.len(), named.len());
    assert!(journal.read_each(&[5, count]).is_err());

    let search = Search::over(journal.segments().clone()).unwrap();
    assert_eq!(search.applied(), SEGMENT);
    let query = Query {
        serial: Some(samples::serial(40_000)),
        ..Query::default()
    };
    let hits = search.query(&query, None, 10).unwrap().rows;
    assert_eq!(hits.iter().map(|hit| hit.index).collect::<Vec<_>>(), [40_000]);
    let found = search
        .certificate(&*journal, &samples::serial(40_000), None)
        .unwrap()
        .unwrap();
    assert_eq!(found.stored.index(), 40_000);

    drop((sealer, journal, tree));
    let report = verify(&place.ledger(), None, &mut ()).unwrap();
    assert_eq!((report[0].size, report[0].root), (size, root));
    let again = Arc::new(FileJournal::open(&place.ledger(), small_files()).unwrap());
    assert!(contents(&*again) == before);
    assert_eq!(integrated(&again).growing().1.root().unwrap(), root);
}

#[test]
fn a_crash_while_sealing_loses_nothing_and_sealing_goes_on() {
    let place = Place::new();
    drop(filled(&place, small_files(), SEGMENT + 100));
    // Create, write, flush, rename and flush of the folder, for entries and index, each failing in both ways.
    for fault in [Fault::Lost, Fault::DoneButReported] {
        for call in 1..=10 {
            let copy = place.copy();
            let faulty = Faulty::new();
            let opened = OpenOptions {
                file_bytes: 4 << 20,
                ..faulty.options()
            };
            let journal = Arc::new(FileJournal::open(&copy.ledger(), opened).unwrap());
            let before = journal.read_from(60_000, 500).unwrap();
            let mut sealer = Sealer::new(journal.clone(), integrated(&journal));
            let calls = faulty.0.calls.load(std::sync::atomic::Ordering::SeqCst);
            faulty.0.fail_at(calls + call, fault);
            assert!(sealer.seal_next().is_err(), "{call} {fault:?}");
            assert_eq!(journal.segments().records(), 0);
            // What was left half made is made again, now or after a restart.
            if call % 2 == 0 {
                assert!(sealer.seal_next().unwrap());
            }
            drop((sealer, journal));
            verify(&copy.ledger(), None, &mut ()).unwrap();
            let journal = Arc::new(FileJournal::open(&copy.ledger(), small_files()).unwrap());
            let mut sealer = Sealer::new(journal.clone(), integrated(&journal));
            sealer.seal_next().unwrap();
            journal.release_sealed().unwrap();
            assert_eq!(journal.segments().records(), SEGMENT);
            let after = journal.read_from(60_000, 500).unwrap();
            let bytes = |records: &[crate::Stored]| records.iter().map(|one| one.bytes().to_vec()).collect::<Vec<_>>();
            assert!(bytes(&after)[..] == bytes(&before)[..after.len()]);
        }
    }
}

#[test]
fn what_is_lost_of_a_sealed_ledger_is_named_or_made_again() {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 2000);
    Sealer::new(journal.clone(), tree.clone()).seal_next().unwrap();
    journal.release_sealed().unwrap();
    let root = tree.growing().1.root().unwrap();
    drop((journal, tree));
    let seg = |place: &Place, name: &str| place.shard().join("seg").join(name);

    let copy = place.copy();
    std::fs::remove_file(seg(&copy, "00000000.entries.zst")).unwrap();
    for refused in [
        FileJournal::open(&copy.ledger(), small_files()).unwrap_err(),
        verify(&copy.ledger(), None, &mut ()).unwrap_err(),
    ] {
        assert!(
            matches!(&refused, LedgerError::Missing { path, .. } if path.ends_with("00000000.entries.zst")),
            "{refused}"
        );
    }

    let copy = place.copy();
    for derived in ["00000000.idx", "00000000.tiles"] {
        std::fs::remove_file(seg(&copy, derived)).unwrap();
    }
    std::fs::remove_dir_all(copy.shard().join("tile")).unwrap();
    let journal = Arc::new(FileJournal::open(&copy.ledger(), small_files()).unwrap());
    assert_eq!(journal.segments().records(), SEGMENT);
    assert_eq!(integrated(&journal).growing().1.root().unwrap(), root);
    assert!(seg(&copy, "00000000.idx").exists() && seg(&copy, "00000000.tiles").exists());
    drop(journal);
    verify(&copy.ledger(), None, &mut ()).unwrap();

    // An older checkpoint is still a prefix, although the files no longer reach back to it.
    let copy = place.copy();
    let old = {
        let edge = crate::tree::leaf_hash(&contents(&FileJournal::open(&copy.ledger(), small_files()).unwrap())[0]);
        key().sign(crate::Checkpoint {
            origin: super::kit::origin(),
            size: 1,
            root: edge,
        })
    };
    crate::disk::replace(&LocalDisk, &copy.shard().join("checkpoint"), old.to_string().as_bytes()).unwrap();
    FileJournal::open(&copy.ledger(), small_files()).unwrap();
    verify(&copy.ledger(), None, &mut ()).unwrap();
    let forged = key().sign(crate::Checkpoint {
        origin: super::kit::origin(),
        size: 1,
        root: crate::Hash::new([9; 32]),
    });
    crate::disk::replace(
        &LocalDisk,
        &copy.shard().join("checkpoint"),
        forged.to_string().as_bytes(),
    )
    .unwrap();
    assert!(matches!(
        FileJournal::open(&copy.ledger(), small_files()),
        Err(LedgerError::Forked { .. })
    ));
    assert!(matches!(
        verify(&copy.ledger(), None, &mut ()),
        Err(LedgerError::Forked { .. })
    ));
}

#[test]
fn a_busy_log_is_sealed_only_when_much_is_unsealed() {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 10);
    let mut sealer = Sealer::new(journal.clone(), tree);
    journal.append(&group(SEGMENT + 10, SEGMENT + 20), 0).unwrap();
    assert_eq!(sealer.next(), journal.size(), "it is pushed nothing");
    assert_eq!(sealer.caught_up().unwrap(), Some(Sealer::PACE));
    assert_eq!(journal.segments().records(), 0, "the log grew since the last look");
    sealer.caught_up().unwrap();
    assert_eq!(journal.segments().records(), SEGMENT, "it was quiet");
    assert_eq!(sealer.caught_up().unwrap(), None);
}

/// Every file below a folder.
fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

#[test]
fn a_flipped_bit_in_any_file_of_a_sealed_ledger_is_noticed() {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 700);
    Sealer::new(journal.clone(), tree.clone()).seal_next().unwrap();
    journal.release_sealed().unwrap();
    drop((journal, tree));
    let (mut all, mut random) = (Vec::new(), 0x9e37_79b9_7f4a_7c15u64 ^ seed());
    files(&place.ledger(), &mut all);
    // The lock is empty, and comments of the policy say nothing.
    all.retain(|path| std::fs::metadata(path).unwrap().len() > 0);
    all.sort();
    for case in campaign(0..1000, 20) {
        // xorshift64*: places that differ from run to run, and are the same for one seed.
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        let path = &all[case % all.len()];
        let mut bytes = std::fs::read(path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let at = (random % used as u64) as usize;
        let comment = path.ends_with("policy") && bytes[..at].iter().filter(|byte| **byte == b'\n').count() == 0;
        if comment {
            continue;
        }
        bytes[at] ^= 1 << (random >> 61);
        std::fs::write(path, &bytes).unwrap();
        let verdict = verify(&place.ledger(), None, &mut ()).and_then(|_| verify_indexes(&place.ledger(), &|| true));
        // The last group may be cut as one that was never acknowledged; then the checkpoint over it is missed.
        assert!(verdict.is_err(), "byte {at} of {}", path.display());
        bytes[at] ^= 1 << (random >> 61);
        std::fs::write(path, &bytes).unwrap();
    }
    verify(&place.ledger(), None, &mut ()).unwrap();
}

fn seed() -> u64 {
    std::env::var("MINTAGE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_sealed_file_cut_anywhere_in_its_last_64_kilobytes_is_refused() {
    let place = Place::new();
    let (journal, tree) = filled(&place, small_files(), SEGMENT + 1);
    Sealer::new(journal.clone(), tree).seal_next().unwrap();
    let shard = journal.shard().clone();
    let segment = crate::seg::Segment(0);
    let cut = |path: PathBuf, open: &dyn Fn() -> Result<(), LedgerError>| {
        open().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len();
        for end in (len.saturating_sub(64 * 1024)..len).rev() {
            file.set_len(end).unwrap();
            assert!(open().is_err(), "cut at {end} of {len}");
        }
    };
    let index = segment.index(&shard);
    cut(index.clone(), &|| {
        crate::seg::index::SealedIndex::open(&shard, segment).map(drop)
    });
    let entries = segment.entries(&shard);
    cut(entries.clone(), &|| {
        crate::seg::entries::Entries::open(&shard, segment).map(drop)
    });
}
