//! Each call to the disk failing in each way.

use std::sync::atomic::Ordering;

use super::kit::{Fault, Faulty, Place, contents, group, issue};
use crate::{AppendError, FileJournal, Journal, LedgerError, OpenOptions};

fn small_files(disk: &Faulty) -> OpenOptions {
    OpenOptions {
        file_bytes: 16 * 1024,
        ..disk.options()
    }
}

/// Appends groups of four until one fails or there are enough; returns how many records were acknowledged and the
/// error.
fn append_all(journal: &dyn Journal) -> (u64, Option<AppendError>) {
    while journal.size() < 70 {
        let next = journal.size();
        if let Err(error) = journal.append(&group(next, next + 4), 0) {
            return (journal.size(), Some(error));
        }
        journal.idle();
    }
    (journal.size(), None)
}

#[test]
fn a_failed_write_poisons_and_nothing_acknowledged_is_lost() {
    let calls = {
        let (place, disk) = (Place::new(), Faulty::new());
        let journal = place.create(small_files(&disk));
        let before = disk.0.calls.load(Ordering::SeqCst);
        assert_eq!(append_all(&journal).1, None);
        assert!(place.wal(3).exists(), "the run must include new files");
        (before, disk.0.calls.load(Ordering::SeqCst))
    };
    for fault in [Fault::Lost, Fault::DoneButReported] {
        for call in calls.0 + 1..=calls.1 {
            let (place, disk) = (Place::new(), Faulty::new());
            let journal = place.create(small_files(&disk));
            disk.0.fail_at(call, fault);
            let (acknowledged, error) = append_all(&journal);
            let poisoned = match error {
                Some(AppendError::Poisoned(_)) => true,
                // The very last call was the reservation of space that nobody needed any more.
                None => journal.poisoned().is_some(),
                other => panic!("{call} {fault:?}: {other:?}"),
            };
            assert!(poisoned, "{call} {fault:?}");
            // Reads go on, and show only what was acknowledged.
            let before = contents(&journal);
            assert_eq!(before.len() as u64, acknowledged);
            let calls = disk.0.calls.load(Ordering::SeqCst);
            assert!(matches!(journal.append(&[issue(99)], 0), Err(AppendError::Poisoned(_))));
            journal.idle();
            assert_eq!(
                disk.0.calls.load(Ordering::SeqCst),
                calls,
                "a failed flush is never tried again"
            );
            drop(journal);
            let journal = FileJournal::open(&place.ledger(), small_files(&Faulty::new()))
                .unwrap_or_else(|error| panic!("{call} {fault:?}: {error}"));
            let after = contents(&journal);
            assert_eq!(after[..before.len()], before, "{call} {fault:?}");
            assert!(
                after.len() - before.len() <= 4,
                "at most the group whose fate was unknown"
            );
            append_all(&journal);
            assert!(journal.size() >= 70);
        }
    }
}

#[test]
fn a_full_disk_is_refused_before_anything_is_written_and_passes() {
    let (mut refused, mut call) = (0, 0);
    for fault in [Fault::Full, Fault::HalfFull] {
        loop {
            call += 1;
            let (place, disk) = (Place::new(), Faulty::new());
            let journal = place.create(small_files(&disk));
            let first = disk.0.calls.load(Ordering::SeqCst);
            disk.0.fail_at(first + call, fault);
            match append_all(&journal) {
                (_, None) if journal.poisoned().is_none() => {
                    // The call was beyond the run, or the reservation ahead, whose failure nobody sees.
                    if disk.0.calls.load(Ordering::SeqCst) < first + call {
                        break;
                    }
                }
                (_, Some(AppendError::NoSpace)) => {
                    refused += 1;
                    assert_eq!(journal.poisoned(), None);
                    assert_eq!(append_all(&journal).1, None, "it goes on by itself");
                }
                // In the middle of a group or a flush, even want of space leaves the disk unknown.
                (_, Some(AppendError::Poisoned(_))) | (_, None) => {}
                other => panic!("{call}: {other:?}"),
            }
            let before = contents(&journal);
            drop(journal);
            let journal = FileJournal::open(&place.ledger(), small_files(&Faulty::new())).unwrap();
            assert_eq!(contents(&journal)[..before.len()], before);
        }
        call = 0;
    }
    assert!(refused >= 10, "{refused}");
}

#[test]
fn a_start_that_fails_can_be_tried_again() {
    let place = Place::new();
    let journal = place.create(small_files(&Faulty::new()));
    append_all(&journal);
    let before = contents(&journal);
    drop(journal);
    for fault in [Fault::Lost, Fault::DoneButReported, Fault::Full, Fault::HalfFull] {
        for call in 1..20 {
            let disk = Faulty::new();
            disk.0.fail_at(call, fault);
            let opened = FileJournal::open(&place.ledger(), small_files(&disk));
            if opened.is_ok() {
                assert!(call > 5, "{fault:?} {call}");
                break;
            }
            if matches!(fault, Fault::Full | Fault::HalfFull) && call != 4 && call != 6 {
                assert!(matches!(opened, Err(LedgerError::NoSpace)), "{call}: {opened:?}");
            }
        }
        let journal = FileJournal::open(&place.ledger(), small_files(&Faulty::new())).unwrap();
        assert_eq!(contents(&journal), before);
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_old_one() {
    use super::kit::{key, origin};
    use crate::Checkpoint;
    let (place, disk) = (Place::new(), Faulty::new());
    let journal = place.create(disk.options());
    journal.append(&group(1, 4), 0).unwrap();
    drop(journal);
    let journal = FileJournal::open(&place.ledger(), disk.options()).unwrap();
    let new = key().sign(Checkpoint {
        origin: origin(),
        size: 4,
        root: journal.recovered().root,
    });
    disk.0.fail_next(Fault::Full);
    assert!(matches!(journal.cas_checkpoint(1, &new), Err(LedgerError::NoSpace)));
    disk.0.fail_next(Fault::Lost);
    assert!(journal.cas_checkpoint(1, &new).is_err());
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 1);
    journal.cas_checkpoint(1, &new).unwrap();
    drop(journal);
    assert_eq!(place.open().unwrap().recovered().checkpoint_size, 4);
}
