//! A ledger of three shards, the oldest given up, the next sealed, the last written: each of its files cut short at every place
//! and with every kind of bit turned over is refused, or is the ledger that was acknowledged.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use mintage_identity::UnixTime;
use zeroize::Zeroizing;

use super::{
    kit::{Fault, Faulty, Place, campaign, integrate, key, keys, options, origin, record, trees},
    shards::roll,
};
use crate::{
    Checkpoint, Cosigner, FileJournal, Frontier, Journal, Kind, LedgerError, LogKey, OpenOptions, RecordCheck, Sealer,
    Stored, Tree, Trees, Vkey, kept, leaf_hash, limits::SEGMENT_RECORDS, verify,
};

/// Octets at the end of a file of which every place is tried.
const TAIL: usize = 64 * 1024;
/// Bits that are turned over.
const FLIPS: usize = 1000;

fn append(journal: &FileJournal, count: u64) {
    let first = journal.size();
    let mut at = first;
    while at < first + count {
        let to = (at + 512).min(first + count);
        let group: Vec<_> = (at..to).map(|seed| record(Kind::AdminEvent, seed)).collect();
        journal.append(&group, u64::MAX).unwrap();
        at = to;
    }
}

/// Three shards of this many records beside those that open and close them.
pub(super) fn three(place: &Place, options: OpenOptions, sizes: [u64; 3]) -> (Arc<FileJournal>, Arc<Trees>) {
    let journal = Arc::new(place.create(options));
    let (trees, keys) = (trees(&journal), keys());
    for (number, size) in (1..).zip(sizes) {
        append(&journal, size);
        if number < 3 {
            roll(&journal, &keys, number).unwrap();
        }
    }
    integrate(&journal, &trees, Some(keys));
    let mut sealer = Sealer::new(journal.clone(), trees.clone());
    while sealer.seal_next().unwrap() {}
    journal.release_sealed().unwrap();
    (journal, trees)
}

pub(super) fn release_first(journal: &FileJournal) -> Result<(), LedgerError> {
    let far = UnixTime::from_seconds(1 << 40);
    journal.release(&journal.releasable(far, far).releasable[0])
}

/// All records that are kept, with their places.
fn held(journal: &FileJournal) -> Result<Vec<(u64, Vec<u8>)>, LedgerError> {
    let (mut all, mut at) = (Vec::new(), journal.first());
    while at < journal.size() {
        for stored in journal.read_from(at, 100)? {
            all.push((stored.index(), stored.bytes().to_vec()));
            at = stored.index() + 1;
        }
    }
    Ok(all)
}

#[derive(Default)]
struct Seen(Vec<(u64, Vec<u8>)>);

impl RecordCheck for Seen {
    fn record(&mut self, _: &Vkey, stored: &Stored) -> Result<(), String> {
        self.0.push((stored.index(), stored.bytes().to_vec()));
        Ok(())
    }
}

/// The ledger, and what was acknowledged of it.
struct Acknowledged {
    place: Place,
    records: Vec<(u64, Vec<u8>)>,
    size: u64,
}

impl Acknowledged {
    fn new() -> Self {
        let place = Place::new();
        let (journal, _) = three(&place, options(), [260, 260, 20]);
        release_first(&journal).unwrap();
        let (records, size) = (held(&journal).unwrap(), journal.size());
        assert_eq!(records[0].0, 262);
        Self { place, records, size }
    }

    /// Whether it is refused, by a verifier and by a start; what is not refused must be all that was acknowledged.
    fn judged(&self, place: &Place, what: &str) -> (bool, bool) {
        let mut seen = Seen::default();
        let verified = verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut seen);
        if let Ok(reports) = &verified {
            assert!(seen.0 == self.records, "{what}: verified with other records");
            assert_eq!(reports.len(), 3, "{what}");
        }
        let opened = place.open_applied(self.size).and_then(|journal| {
            let records = held(&journal)?;
            assert!(records == self.records, "{what}: opened with other records");
            assert_eq!(journal.size(), self.size, "{what}");
            Ok(())
        });
        (verified.is_err(), opened.is_err())
    }
}

/// Every file of a folder, below it.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_file_of_any_kind_that_is_cut_short_is_refused_or_nothing_is_lost() {
    let whole = Acknowledged::new();
    assert_eq!(whole.judged(&whole.place.copy(), "whole"), (false, false));
    let mut refused = 0;
    let below = whole.place.ledger();
    let names: Vec<PathBuf> = files(&below);
    let kinds = names
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect::<Vec<_>>();
    for kind in [
        "00000001.wal",
        "00000000.tiles",
        "00000000.idx",
        "00000000.entries.zst",
        "checkpoint",
        "policy",
    ] {
        assert!(kinds.contains(&kind), "{kind} of {kinds:?}");
    }
    for kind in ["snapshot", "succession", "released", "1"] {
        assert!(kinds.contains(&kind), "{kind} of {kinds:?}");
    }
    for path in names {
        let name = path.strip_prefix(&below).unwrap().to_owned();
        let octets = fs::read(&path).unwrap();
        if octets.is_empty() {
            continue;
        }
        let cuts = octets.len().saturating_sub(TAIL)..octets.len();
        // Few of a long file, and the ends of all.
        let one_in = (cuts.len() / 9).max(1);
        let ends = [octets.len() - 1, cuts.start];
        for len in campaign(cuts.clone(), one_in).chain(ends) {
            let copy = whole.place.copy();
            fs::write(copy.ledger().join(&name), &octets[..len]).unwrap();
            let (by_verifier, by_start) = whole.judged(&copy, &format!("{} cut to {len}", name.display()));
            refused += usize::from(by_verifier || by_start);
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_bit_turned_over_anywhere_in_a_ledger_of_shards_is_refused_or_changes_nothing() {
    let whole = Acknowledged::new();
    let below = whole.place.ledger();
    let names: Vec<(PathBuf, usize)> = files(&below)
        .into_iter()
        .map(|path| {
            (
                path.strip_prefix(&below).unwrap().to_owned(),
                fs::read(&path).unwrap().len(),
            )
        })
        .filter(|(_, len)| *len > 0)
        .collect();
    let mut refused = 0;
    for flip in campaign(0..FLIPS, 7) {
        // The same number of each file, spread over it.
        let (name, len) = &names[flip % names.len()];
        let bit = (flip / names.len()).wrapping_mul(2_654_435_761) % (len * 8);
        let copy = whole.place.copy();
        let path = copy.ledger().join(name);
        let mut octets = fs::read(&path).unwrap();
        octets[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, octets).unwrap();
        let (by_verifier, by_start) = whole.judged(&copy, &format!("bit {bit} of {}", name.display()));
        refused += usize::from(by_verifier || by_start);
    }
    assert!(refused > 20, "{refused}");
}

/// Makes each call of some work to the disk fail, lost and done, until the work makes no more calls.
fn each_call(mut work: impl FnMut(&Faulty, &mut dyn FnMut()), least: u64) {
    for fault in [Fault::Lost, Fault::DoneButReported] {
        for call in 1.. {
            let faulty = Faulty::new();
            let mut begun = None;
            work(&faulty, &mut || {
                let calls = faulty.0.calls.load(Ordering::SeqCst);
                faulty.0.fail_at(calls + call, fault);
                begun = Some(calls);
            });
            let made = faulty.0.calls.load(Ordering::SeqCst) - begun.unwrap();
            if made < call {
                assert!(call > least, "the work makes {call} calls");
                break;
            }
        }
    }
}

#[test]
fn a_checkpoint_or_a_line_on_it_that_fails_leaves_one_that_is_signed() {
    let place = Place::new();
    let journal = place.create(options());
    append(&journal, 5);
    drop(journal);
    let (pair, _) = LogKey::generate(&Zeroizing::new([5; 32])).unwrap();
    let witness = Cosigner::new("w", pair).unwrap();
    each_call(
        |faulty, begin| {
            let copy = place.copy();
            let journal = FileJournal::open(&copy.ledger(), faulty.options()).unwrap();
            let head = |size| Checkpoint {
                origin: origin(),
                size,
                root: journal.recovered().root,
            };
            let (first, new) = (journal.checkpoint().unwrap(), key().sign(head(6)));
            begin();
            let _ = journal.cas_checkpoint(1, &new);
            let stored = journal.checkpoint().unwrap();
            let line = witness.cosign(stored.note(), UnixTime::from_seconds(7)).unwrap();
            let _ = journal.add_cosignatures(stored.note().text(), &[line]);
            let _ = kept::keep(&**journal.disk(), &journal.shard(), &stored);
            // Whatever was told: it is one of the two that were signed, and all of it can be done again.
            let sizes = [first.checkpoint().size, 6];
            let last = journal.checkpoint().unwrap().checkpoint().size;
            assert!(sizes.contains(&last));
            drop(journal);
            verify(&copy.ledger(), None, &mut ()).unwrap();
            let journal = copy.open().unwrap();
            let stored = journal.checkpoint().unwrap();
            assert!(stored.checkpoint().size >= last && sizes.contains(&stored.checkpoint().size));
            journal.cas_checkpoint(stored.checkpoint().size, &new).unwrap();
            let stored = journal.checkpoint().unwrap();
            let line = witness.cosign(stored.note(), UnixTime::from_seconds(8)).unwrap();
            journal.add_cosignatures(stored.note().text(), &[line]).unwrap();
            kept::keep(&**journal.disk(), &journal.shard(), &stored).unwrap();
            drop(journal);
            verify(&copy.ledger(), None, &mut ()).unwrap();
        },
        10,
    );
}

#[test]
fn records_that_are_given_up_while_the_disk_fails_are_all_there_or_all_gone() {
    let place = Place::new();
    drop(three(&place, options(), [20, 20, 5]));
    let all = held(&place.open().unwrap()).unwrap();
    let (mut there, mut gone) = (0, 0);
    each_call(
        |faulty, begin| {
            let copy = place.copy();
            let journal = FileJournal::open(&copy.ledger(), faulty.options()).unwrap();
            begin();
            let _ = release_first(&journal);
            assert!(held(&journal).unwrap()[..] == all[journal.first() as usize..]);
            drop(journal);
            let journal = copy.open().unwrap();
            match journal.first() {
                0 => there += 1,
                22 => gone += 1,
                other => panic!("it begins with record {other}"),
            }
            assert!(held(&journal).unwrap()[..] == all[journal.first() as usize..]);
            verify(&copy.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
            if journal.first() == 0 {
                release_first(&journal).unwrap();
            }
            let left = |folder: &str| copy.shard().join(folder).exists();
            assert!(!left("seg") && !left("head") && left("checkpoint"));
            drop(journal);
            verify(&copy.ledger(), None, &mut ()).unwrap();
        },
        7,
    );
    assert!(there > 0 && gone > 0, "{there} {gone}");
}

#[test]
fn a_tile_that_fails_to_be_written_is_written_again_and_right() {
    let leaf = |at: u64| leaf_hash(&at.to_be_bytes());
    let mut edge = Frontier::new();
    (0..600).for_each(|at| edge.push(leaf(at)));
    each_call(
        |faulty, begin| {
            let place = Place::new();
            let tree = Tree::new(&place.shard(), Arc::new(faulty.clone()));
            begin();
            for at in 0..600 {
                if tree.push(leaf(at)).is_err() {
                    assert_eq!(tree.size(), at, "a leaf whose tile is not there is none");
                    tree.push(leaf(at)).unwrap();
                }
            }
            assert_eq!(tree.root().unwrap(), edge.root());
            for number in 0..2 {
                let hashes: Vec<_> = (256 * number..256 * (number + 1)).map(leaf).collect();
                assert_eq!(tree.read_tile(0, number).unwrap(), hashes);
            }
        },
        3,
    );
}

#[test]
fn the_tiles_above_the_first_level_stay_when_records_are_given_up() {
    let place = Place::new();
    let (journal, trees) = three(&place, options(), [SEGMENT_RECORDS as u64 + 10, 5, 5]);
    let log = journal.logs()[0].clone();
    let tile = trees.of_log(&log).unwrap().read_tile(1, 0).unwrap();
    let path = place.shard().join("tile/1/000");
    let octets = fs::read(&path).unwrap();
    assert_eq!(octets.len(), 256 * 32);
    // A tile that was cut is as if it were not there, and is told so.
    for len in campaign(0..octets.len(), 3001).chain([octets.len() - 1]) {
        fs::write(&path, &octets[..len]).unwrap();
        let reports = verify(&place.ledger(), None, &mut ()).unwrap();
        assert_eq!((reports[0].tiles_missing, reports[0].tiles), (1, 256), "{len}");
    }
    fs::write(&path, &octets).unwrap();
    let kept: Vec<PathBuf> = files(&place.shard().join("checkpoints"));
    assert!(kept.len() >= 2, "{kept:?}");
    release_first(&journal).unwrap();
    assert_eq!(fs::read(&path).unwrap(), octets);
    assert_eq!(files(&place.shard().join("checkpoints")), kept);
    let gone = fs::metadata(place.shard().join("seg")).unwrap_err().kind();
    assert_eq!(gone, io::ErrorKind::NotFound);
    // What stays is still the beginning of what was signed: its root is that of the first segment.
    let first = crate::tiles::subtree_root(&tile);
    let reports = verify(&place.ledger(), None, &mut ()).unwrap();
    assert!(reports[0].released && reports[0].size == SEGMENT_RECORDS as u64 + 12);
    // The full one, and on the right edge those of twelve records and of the first segment.
    assert_eq!((reports[0].tiles, reports[0].tiles_missing), (3, 0));
    let read = crate::tiles::read_tile(&place.shard(), 1, 0).unwrap().unwrap();
    assert_eq!(crate::tiles::subtree_root(&read), first);
}
