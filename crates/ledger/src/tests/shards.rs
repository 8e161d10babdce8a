//! Shards: the ledger goes on over the end of a log, whoever reads it and whatever interrupts it.

use std::sync::{Arc, atomic::Ordering};

use mintage_identity::UnixTime;
use zeroize::Zeroizing;

use super::kit::{Fault, Faulty, Place, contents, group, integrate, key, keys, options, origin, record, trees};
use crate::{
    AppendError, Body, Checkpoint, Cosigner, FileJournal, Journal, Kind, LedgerError, LedgerTreeWriter, Log, LogKey,
    LogKeys, OpenOptions, Origin, Policy, Query, Record, RecordCheck, Roll, Sealer, Search, ShardBegin, SignedNote,
    Stored, Trees, Vkey, WhyKept, samples, verify, verify_inclusion, verify_indexes, verify_ledger_tree, verify_tree,
};

pub(super) fn next(number: u8) -> (Origin, LogKey) {
    let origin = Origin::parse(&format!("dev.test/mintage/a1b2/2026-{number:02}")).unwrap();
    (origin, LogKey::generate(&Zeroizing::new([100 + number; 32])).unwrap().0)
}

/// What a state would say of everything before a position.
pub(super) fn snapshot(position: u64) -> Vec<u8> {
    format!("what stands before {position}").into_bytes()
}

pub(super) fn roll(journal: &FileJournal, keys: &LogKeys, number: u8) -> Result<Arc<Log>, LedgerError> {
    let (origin, key) = next(number);
    journal.roll(
        keys,
        Roll {
            next: &origin,
            key,
            closing: record(Kind::LogClose, 7),
            snapshot: &mut |position| Ok(snapshot(position)),
            opening: &mut |open| samples::head(u64::from(number), Body::LogOpen(open)).encode(),
        },
    )
}

pub(super) fn append(journal: &FileJournal, count: u64) {
    let size = journal.size();
    journal.append(&group(size, size + count), u64::MAX).unwrap();
}

/// A ledger of three logs of 300, 400 and 200 records, followed as it grew.
pub(super) fn three(place: &Place, options: OpenOptions) -> (Arc<FileJournal>, Arc<Trees>, Arc<LogKeys>) {
    let journal = Arc::new(place.create(options));
    let (trees, keys) = (trees(&journal), keys());
    append(&journal, 298);
    roll(&journal, &keys, 1).unwrap();
    integrate(&journal, &trees, Some(keys.clone()));
    append(&journal, 398);
    roll(&journal, &keys, 2).unwrap();
    append(&journal, 199);
    integrate(&journal, &trees, Some(keys.clone()));
    (journal, trees, keys)
}

fn check_proof(journal: &FileJournal, trees: &Trees, position: u64) {
    let log = journal.log_of(position).unwrap();
    let signed = journal.checkpoint_of(&log).unwrap();
    let head = signed.checkpoint();
    let leaf = journal.read_from(position, 1).unwrap()[0].leaf_hash();
    let index = log.leaf_at(position).unwrap();
    let path = trees
        .of_log(&log)
        .unwrap()
        .inclusion(index, &leaf, head.size, &head.root);
    verify_inclusion(&leaf, index, head.size, &path.unwrap(), &head.root).unwrap();
}

/// What a verification hands on.
#[derive(Default)]
struct Seen {
    begun: Vec<(u64, Option<Vec<u8>>)>,
    records: Vec<u64>,
}

impl RecordCheck for Seen {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.begun.push((begin.log.first(), begin.snapshot.map(<[u8]>::to_vec)));
        Ok(())
    }

    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        self.records.push(stored.index());
        Ok(())
    }
}

#[test]
fn a_ledger_goes_on_in_the_next_shard() {
    let place = Place::new();
    let (journal, trees, keys) = three(&place, options());
    let firsts: Vec<_> = journal.logs().iter().map(|log| log.first()).collect();
    assert_eq!((firsts, journal.size()), (vec![0, 300, 700], 900));
    let before = contents(&*journal);
    for position in [0, 299, 300, 301, 699, 700, 899] {
        check_proof(&journal, &trees, position);
    }
    let opened = Record::decode(&before[300]).unwrap();
    let Body::LogOpen(open) = opened.body else {
        panic!("{opened:?}")
    };
    assert_eq!(open.first_position, 300);
    assert_eq!(open.snapshot_sha256, crate::tree::sha256(&snapshot(300)));
    assert!(
        open.previous_checkpoint
            .starts_with("dev.test/mintage/a1b2/2025-12\n300\n")
    );
    assert!(roll(&journal, &keys, 1).is_err(), "a name and a key are used once");
    drop((journal, trees));

    // The first key alone is enough: each log names the one after it.
    let mut seen = Seen::default();
    let first = [key().vkey(&origin())];
    let reports = verify(&place.ledger(), Some(&first), &mut seen).unwrap();
    let sizes: Vec<_> = reports.iter().map(|report| (report.first, report.size)).collect();
    assert_eq!(sizes, [(0, 300), (300, 400), (700, 200)]);
    assert_eq!(seen.records, (0..900).collect::<Vec<_>>());
    let begun = [(0, None), (300, Some(snapshot(300))), (700, Some(snapshot(700)))];
    assert_eq!(seen.begun, begun);
    let later = [next(1).1.vkey(&next(1).0)];
    assert!(matches!(
        verify(&place.ledger(), Some(&later), &mut ()),
        Err(LedgerError::Signature(_))
    ));

    let again = Arc::new(place.open_applied(900).unwrap());
    assert!(contents(&*again) == before);
    let trees = super::kit::trees(&again);
    for position in [5, 299, 300, 650] {
        check_proof(&again, &trees, position);
    }
    drop((again, trees));
    let refused = place.open_applied(901);
    assert!(matches!(
        refused,
        Err(LedgerError::RolledBack {
            have: 900,
            need: 901,
            ..
        })
    ));
}

#[test]
fn what_restricts_after_a_roll_counts_through_all_shards() {
    let place = Place::new();
    let small = OpenOptions {
        file_bytes: 16 * 1024,
        reserve_bytes: 4096,
        ..options()
    };
    let journal = place.create(small);
    let keys = keys();
    append(&journal, 50);
    roll(&journal, &keys, 1).unwrap();
    let seen = journal.control_head();
    assert!(seen <= journal.size());
    // A ban in the new shard: whoever decided before it, even on all of the shard before, decides again.
    journal.append(&[record(Kind::AgentBan, 1)], u64::MAX).unwrap();
    let banned = journal.size();
    assert_eq!(journal.control_head(), banned);
    let late = journal.append(&[record(Kind::Issue, 2)], banned - 1);
    assert!(
        matches!(late, Err(AppendError::Moved { control_head }) if control_head == banned),
        "{late:?}"
    );
    journal.append(&[record(Kind::Issue, 2)], banned).unwrap();

    // The files after the first begin with the same count, so that a verification and a start find nothing wrong.
    let files = || {
        std::fs::read_dir(place.ledger().join("a1b2/2026-01/head"))
            .unwrap()
            .count()
    };
    (0..10).for_each(|_| append(&journal, 20));
    assert!(files() >= 3, "{}", files());
    let (size, control_head) = (journal.size(), journal.control_head());
    drop(journal);
    verify(&place.ledger(), None, &mut ()).unwrap();
    let again = place.open_applied(size).unwrap();
    assert_eq!((again.size(), again.control_head()), (size, control_head));
}

fn find(journal: &FileJournal, serial: u64) -> Vec<u64> {
    let search = Search::over(journal.segments().clone()).unwrap();
    let query = Query {
        serial: Some(samples::serial(serial)),
        ..Query::default()
    };
    let rows = search.query(&query, None, 10).unwrap().rows;
    rows.iter().map(|hit| hit.index).collect()
}

/// [`three`], with its closed shards sealed, and its records.
pub(super) fn sealed(place: &Place) -> (Arc<FileJournal>, Arc<LogKeys>, Vec<Vec<u8>>) {
    let (journal, trees, keys) = three(place, options());
    let before = contents(&*journal);
    let mut sealer = Sealer::new(journal.clone(), trees);
    assert!(sealer.seal_next().unwrap() && sealer.seal_next().unwrap());
    assert!(!sealer.seal_next().unwrap(), "the last shard is not closed");
    journal.release_sealed().unwrap();
    (journal, keys, before)
}

#[test]
fn closed_shards_are_sealed_and_searched() {
    let place = Place::new();
    let (journal, _, before) = sealed(&place);
    assert_eq!(journal.segments().end(), 700);
    let head = |shard: &str| place.ledger().join("a1b2").join(shard).join("head");
    let heads = |shard: &str| std::fs::read_dir(head(shard)).unwrap().count();
    assert_eq!((heads("2025-12"), heads("2026-01"), heads("2026-02")), (0, 0, 1));
    assert!(contents(&*journal) == before);
    assert_eq!((find(&journal, 250), find(&journal, 600)), (vec![250], vec![600]));
    verify(&place.ledger(), None, &mut ()).unwrap();
    drop(journal);
    let journal = Arc::new(place.open().unwrap());
    assert!(contents(&*journal) == before);
    assert_eq!(find(&journal, 600), [600]);
}

#[test]
fn old_shards_are_given_up_in_order_and_their_promises_stay() {
    let place = Place::new();
    let (journal, ..) = sealed(&place);
    let far = UnixTime::from_seconds(1 << 40);
    let past = UnixTime::from_seconds(0);
    assert_eq!(journal.releasable(past, far).releasable, []);
    assert_eq!(journal.releasable(far, past).releasable, [], "its certificates live");
    let old = journal.releasable(far, far).releasable;
    assert_eq!(old.iter().map(|shard| shard.records).collect::<Vec<_>>(), [300, 400]);
    let why = |before, now| {
        let oldest = journal.releasable(before, now);
        (oldest.kept, oldest.why)
    };
    assert!(matches!(why(past, far), (log, WhyKept::Young(_)) if log.first() == 0));
    assert!(matches!(why(far, past), (log, WhyKept::Live(_)) if log.first() == 0));
    assert_eq!(why(far, far), (journal.log(), WhyKept::Written));
    assert!(journal.release(&old[1]).is_err(), "the oldest goes first");
    journal.release(&old[0]).unwrap();
    assert_eq!(
        (journal.first(), journal.read_from(300, 1).unwrap()[0].index()),
        (300, 300)
    );
    let gone = journal.read_from(299, 1);
    assert!(matches!(gone, Err(LedgerError::Released { index: 299, first: 300 })));
    assert_eq!((journal.log_of(299), find(&journal, 250)), (None, vec![]));
    assert_eq!(journal.snapshot().unwrap(), Some(snapshot(300)));
    let reports = verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
    let released: Vec<_> = reports.iter().map(|report| report.released).collect();
    assert_eq!(released, [true, false, false]);
    let kept = |name: &str| place.shard().join(name).exists();
    assert!(kept("checkpoint") && kept("checkpoints") && !kept("seg") && !kept("head"));
}

#[test]
fn a_ledger_whose_oldest_records_were_given_up_goes_on() {
    let place = Place::new();
    let (journal, keys, _) = sealed(&place);
    let far = UnixTime::from_seconds(1 << 40);
    journal.release(&journal.releasable(far, far).releasable[0]).unwrap();
    drop(journal);
    let journal = Arc::new(place.open().unwrap());
    assert_eq!(
        (journal.first(), journal.size(), find(&journal, 600)),
        (300, 900, vec![600])
    );
    let again = trees_of(&journal, &keys);
    check_proof(&journal, &again, 899);
    let gone = again.of_log(&journal.logs()[0]);
    assert!(matches!(gone, Err(LedgerError::Released { .. })));
    let search = Search::over(journal.segments().clone()).unwrap();
    assert_eq!(search.applied(), 700);
    drop((journal, again));

    let snapshot = place.ledger().join("a1b2/2026-01/snapshot");
    std::fs::write(&snapshot, "something else").unwrap();
    let journal = place.open().unwrap();
    assert!(matches!(journal.snapshot(), Err(LedgerError::Corrupt { .. })));
    assert!(verify(&place.ledger(), None, &mut ()).is_err());
}

pub(super) fn trees_of(journal: &Arc<FileJournal>, keys: &Arc<LogKeys>) -> Arc<Trees> {
    let trees = trees(journal);
    integrate(journal, &trees, Some(keys.clone()));
    trees
}

#[test]
fn a_roll_that_is_cut_short_leaves_the_old_shard_or_the_new_one() {
    let place = Place::new();
    drop(place.create(options()));
    let (mut rolled, mut stayed) = (0, 0);
    for fault in [Fault::Lost, Fault::DoneButReported, Fault::Full] {
        for call in 1.. {
            let copy = place.copy();
            let faulty = Faulty::new();
            let journal = Arc::new(FileJournal::open(&copy.ledger(), faulty.options()).unwrap());
            append(&journal, 20);
            let keys = keys();
            let calls = faulty.0.calls.load(Ordering::SeqCst);
            faulty.0.fail_at(calls + call, fault);
            let done = roll(&journal, &keys, 1);
            let made = faulty.0.calls.load(Ordering::SeqCst) - calls;
            if made < call {
                assert!(call > 15, "a roll makes many calls: {call}");
                break;
            }
            // A roll that failed either way leaves a ledger that goes on, or one that says that it must be restarted.
            if done.is_err() && journal.poisoned().is_none() {
                append(&journal, 5);
                roll(&journal, &keys, 1).unwrap();
            }
            let size = journal.size();
            drop(journal);
            let journal = Arc::new(copy.open().unwrap());
            assert!(journal.size() >= size, "{call} {fault:?}: {} of {size}", journal.size());
            match journal.logs().len() {
                1 => stayed += 1,
                _ => rolled += 1,
            }
            let keys = keys_after(&journal);
            append(&journal, 30);
            roll(&journal, &keys, 2).unwrap();
            append(&journal, 3);
            trees_of(&journal, &keys);
            drop(journal);
            verify(&copy.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
        }
    }
    assert!(rolled > 0 && stayed > 0, "{rolled} {stayed}");
}

/// The key of the log that is written, by its name.
fn keys_after(journal: &FileJournal) -> Arc<LogKeys> {
    match journal.logs().len() {
        1 => keys(),
        _ => LogKeys::new(journal.log().origin(), next(1).1),
    }
}

#[test]
fn appends_and_readers_go_on_while_logs_are_closed() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let keys = keys();
    let trees = trees(&journal);
    let shared: Arc<dyn Journal> = journal.clone();
    let integrator = crate::Integrator::new(
        shared.clone(),
        trees.clone(),
        Some(keys.clone()),
        std::time::Duration::ZERO,
    );
    let search = Search::over(journal.segments().clone()).unwrap();
    let sinks: Vec<Box<dyn crate::Sink>> = vec![Box::new(integrator.unwrap()), search.sink()];
    let follower = crate::Follower::start("both", shared.clone(), sinks, std::time::Duration::ZERO).unwrap();
    let (committer, commits) = crate::Committer::start(shared, crate::CommitterLimits::default()).unwrap();
    let receipts: Vec<crate::Receipt> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let one = |seed| {
                commits
                    .submit(vec![(super::kit::issue(seed), u64::MAX)])
                    .wait()
                    .remove(0)
                    .unwrap()
            };
            (1..2000).map(one).collect()
        });
        for number in 1..=9 {
            let from = journal.size();
            // On a busy machine the writer may be done before the last roll.
            while journal.size() < from + 150 && !writer.is_finished() {
                std::thread::yield_now();
            }
            roll(&journal, &keys, number).unwrap();
        }
        writer.join().unwrap()
    });
    committer.stop();
    follower.stop();
    assert_eq!((journal.logs().len(), search.applied()), (10, journal.size()));
    for receipt in receipts {
        let log = journal.log_of(receipt.position()).unwrap();
        assert_eq!(receipt.origin(), log.origin());
        assert_eq!(log.position_of(receipt.leaf_index()), receipt.position());
        let stored = journal.read_from(receipt.position(), 1).unwrap().remove(0);
        assert_eq!(stored.leaf_hash(), receipt.leaf_hash());
        if receipt.position() % 50 == 0 {
            check_proof(&journal, &trees, receipt.position());
        }
    }
    let mut sealer = Sealer::new(journal.clone(), trees);
    while sealer.seal_next().unwrap() {}
    assert_eq!(journal.segments().end(), journal.log().first());
    drop((sealer, journal));
    verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
}

#[test]
fn an_exported_ledger_of_several_shards_verifies_from_its_first_key() {
    let place = Place::new();
    let (journal, trees, _) = three(&place, options());
    let first = Policy::trusting([key().vkey(&origin())]).unwrap();
    let export = |name: &str| {
        let out = place.ledger().with_file_name(name);
        let mut writer = LedgerTreeWriter::create(&place.ledger(), &out).unwrap();
        verify(&place.ledger(), None, &mut writer).unwrap();
        writer.finish().unwrap();
        out
    };
    let whole = export("whole");
    let mut seen = Seen::default();
    let reports = verify_ledger_tree(&whole, Some(&first), &mut seen).unwrap();
    let sizes: Vec<_> = reports
        .iter()
        .map(|report| (report.first, report.checkpoint.size()))
        .collect();
    assert_eq!(
        (sizes, seen.records.len(), seen.begun.len()),
        (vec![(0, 300), (300, 400), (700, 200)], 900, 3)
    );
    // One log alone, by its own key.
    let (second, second_key) = next(1);
    let alone = Policy::trusting([second_key.vkey(&second)]).unwrap();
    assert_eq!(
        verify_tree(&whole.join("a1b2/2026-01"), &alone, &mut ()).unwrap().first,
        300
    );
    for (file, damage) in [
        ("2026-01/snapshot", "other"),
        ("2026-02/succession", "none\n\n"),
        ("2026-01/more", "x"),
    ] {
        let copy = export(&file.replace('/', "-"));
        std::fs::write(copy.join("a1b2").join(file), damage).unwrap();
        assert!(verify_ledger_tree(&copy, Some(&first), &mut ()).is_err(), "{file}");
    }

    // The mark of records that were given up excuses no shard but the oldest.
    for shard in ["2026-01", "2026-02"] {
        let copy = export(&format!("hidden-{shard}"));
        let log = copy.join("a1b2").join(shard);
        std::fs::remove_dir_all(log.join("tile")).unwrap();
        std::fs::write(log.join("released"), "").unwrap();
        assert!(verify_ledger_tree(&copy, Some(&first), &mut ()).is_err(), "{shard}");
        let alone = Policy::parse(&std::fs::read(copy.join("policy")).unwrap()).unwrap();
        assert!(verify_tree(&log, &alone, &mut ()).is_err(), "{shard}");
    }

    let mut sealer = Sealer::new(journal.clone(), trees);
    while sealer.seal_next().unwrap() {}
    let far = UnixTime::from_seconds(1 << 40);
    journal.release(&journal.releasable(far, far).releasable[0]).unwrap();
    let rest = export("rest");
    let mut seen = Seen::default();
    let reports = verify_ledger_tree(&rest, Some(&first), &mut seen).unwrap();
    assert_eq!(
        reports.iter().map(|report| report.released).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!((seen.records[0], seen.records.len()), (300, 600));
}

#[test]
fn the_final_checkpoint_of_a_closed_log_takes_lines_and_keeps_them() {
    let place = Place::new();
    let (journal, keys) = (place.create(options()), keys());
    append(&journal, 4);
    let old = journal.log();
    roll(&journal, &keys, 2).unwrap();
    let last = journal.checkpoint_of(&old).unwrap();
    let (pair, _) = LogKey::generate(&Zeroizing::new([5; 32])).unwrap();
    let witness = Cosigner::new("w1", pair).unwrap();
    let line = |note: &SignedNote| witness.cosign(note, UnixTime::from_seconds(7)).unwrap();
    journal
        .add_cosignatures(last.note().text(), &[line(last.note())])
        .unwrap();
    // Lines about another tree of it, and of a log that is none of this ledger.
    let head = |origin: &Origin, size| Checkpoint {
        origin: origin.clone(),
        size,
        root: last.checkpoint().root,
    };
    for other in [
        key().sign(head(&origin(), last.checkpoint().size + 1)),
        key().sign(head(&next(3).0, last.checkpoint().size)),
    ] {
        let refused = journal.add_cosignatures(other.note().text(), &[line(other.note())]);
        assert!(
            matches!(refused, Err(LedgerError::CheckpointMoved { .. })),
            "{refused:?}"
        );
    }
    drop(journal);
    let journal = place.open().unwrap();
    let stored = journal.checkpoint_of(&old).unwrap();
    assert_eq!(stored.checkpoint(), last.checkpoint());
    assert!(witness.key().time_on(stored.note()).unwrap().is_some());
    assert_eq!(journal.checkpoint().unwrap().note().signatures().len(), 1);
    drop(journal);
    verify(&place.ledger(), None, &mut ()).unwrap();
}

/// Copies what is archived of the first `logs` logs, with their checkpoints and a policy of them.
fn copied(journal: &FileJournal, logs: usize) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let mut policy = String::new();
    for log in &journal.logs()[..logs] {
        let archive = journal.archive(log).unwrap();
        assert!(archive.whole);
        let checkpoint = FileJournal::archived_checkpoint(log);
        let names = archive.files.iter().map(|file| file.name.clone());
        for name in names.chain([checkpoint]) {
            let path = to.path().join(&name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::copy(journal.ledger().join(&name), path).unwrap();
        }
        policy.push_str(&format!("log {}\n", log.vkey()));
    }
    std::fs::write(to.path().join("policy"), policy + "quorum none\n").unwrap();
    to
}

#[test]
fn a_copy_of_what_is_archived_of_closed_shards_is_a_ledger() {
    let place = Place::new();
    let (journal, trees, _) = three(&place, options());
    let logs = journal.logs();
    let before = journal.archive(&logs[0]).unwrap();
    assert!(
        !before.whole && before.segments == 0,
        "nothing is sealed yet: {before:?}"
    );
    let mut sealer = Sealer::new(journal.clone(), trees);
    while sealer.seal_next().unwrap() {}
    let first = journal.archive(&logs[0]).unwrap();
    let names: Vec<_> = first.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "a1b2/2025-12/seg/00000000.entries.zst",
            "a1b2/2025-12/seg/00000000.idx",
            "a1b2/2025-12/seg/00000000.tiles",
            "a1b2/2025-12/checkpoints/1",
            "a1b2/2025-12/checkpoints/300",
        ]
    );
    let written = journal.archive(&logs[2]).unwrap();
    assert!(!written.whole && written.end == 700, "{written:?}");
    let first_key = [key().vkey(&origin())];
    for count in [1, 2] {
        let copy = copied(&journal, count);
        let reports = verify(copy.path(), Some(&first_key), &mut ()).unwrap();
        let sizes: Vec<_> = reports.iter().map(|report| (report.size, report.tiles)).collect();
        assert_eq!(sizes, [(300, 1), (400, 1)][..count]);
        // The last shard of a copy is closed too, and its last segment is short.
        assert_eq!(verify_indexes(copy.path(), &|| true).unwrap(), count as u64);
        // Neither the end of a shard nor one record in it can be left out.
        let entries = copy.path().join(&first.files[0].name);
        let mut octets = std::fs::read(&entries).unwrap();
        let middle = octets.len() / 2;
        octets[middle] ^= 1;
        std::fs::write(&entries, octets).unwrap();
        assert!(verify(copy.path(), Some(&first_key), &mut ()).is_err());
        std::fs::remove_file(&entries).unwrap();
        assert!(verify(copy.path(), Some(&first_key), &mut ()).is_err());
    }
    let far = UnixTime::from_seconds(4_000_000_000);
    journal.release(&journal.releasable(far, far).releasable[0]).unwrap();
    let reports = verify(copied(&journal, 2).path(), Some(&first_key), &mut ()).unwrap();
    assert!(reports[0].released && !reports[1].released);
    let other = Log::new(next(9).1.vkey(&next(9).0), 300).unwrap();
    assert!(journal.archive(&other).is_err());
}
