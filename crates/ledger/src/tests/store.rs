//! Creating, opening, appending and reading.

use std::{fs, os::unix::fs::PermissionsExt};

use super::kit::{Faulty, Place, contents, group, issue, key, opening, options, origin, record};
use crate::{
    AppendError, Checkpoint, FileJournal, Fill, Frontier, Journal, Kind, LedgerError, OpenOptions, leaf_hash,
    limits::GROUP_RECORDS_MAX,
};

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let place = Place::new();
    let journal = place.create(options());
    assert_eq!(journal.append(&group(1, 5), 0).unwrap(), 1);
    assert_eq!(journal.append(&[record(Kind::Revoke, 9)], 0).unwrap(), 5);
    assert_eq!(journal.control_head(), 6);
    let before = contents(&journal);
    drop(journal);
    for _ in 0..3 {
        let journal = place.open().unwrap();
        assert_eq!(contents(&journal), before);
        assert_eq!((journal.size(), journal.control_head()), (6, 6));
        let mut tree = Frontier::new();
        before.iter().for_each(|bytes| tree.push(leaf_hash(bytes)));
        assert_eq!(journal.recovered().root, tree.root());
        assert!(!journal.recovered().cut && !journal.recovered().clean_stop);
    }
    let journal = place.open().unwrap();
    journal.append(&[record(Kind::LogClose, 10)], 6).unwrap();
    drop(journal);
    assert!(place.open().unwrap().recovered().clean_stop);
}

#[test]
fn room_for_large_groups_is_made_without_zeros_and_for_small_ones_with() {
    let (place, disk) = (Place::new(), Faulty::new());
    let options = OpenOptions {
        reserve_bytes: 1 << 20,
        ..disk.options()
    };
    let journal = place.create(options.clone());
    let mut next = 1;
    let mut append = |count: u64, groups| {
        disk.0.fills.lock().unwrap().clear();
        for _ in 0..groups {
            assert_eq!(journal.append(&group(next, next + count), 0).unwrap(), next);
            next += count;
        }
        disk.0.fills.lock().unwrap().clone()
    };
    let size = group(1, 513)
        .iter()
        .map(crate::EncodedRecord::encoded_len)
        .sum::<usize>() as u64;
    assert!(size >= crate::limits::LARGE_GROUP_BYTES, "{size}");
    // The first room after a change is made by what came before it.
    let large = append(512, 40);
    assert!(
        large[1..].len() > 1 && large[1..].iter().all(|fill| *fill == Fill::Blocks),
        "{large:?}"
    );
    // Where a large piece of room is not to be had, a small one is.
    disk.0.no_room.store(1, std::sync::atomic::Ordering::SeqCst);
    assert!(!append(512, 40).is_empty());
    assert_eq!(disk.0.no_room.load(std::sync::atomic::Ordering::SeqCst), 0);
    let small = append(32, 400);
    assert!(
        small[1..].len() > 1 && small[1..].iter().all(|fill| *fill == Fill::Zeros),
        "{small:?}"
    );
    append(512, 4);
    let before = contents(&journal);
    drop(journal);
    let again = FileJournal::open(&place.ledger(), options).unwrap();
    assert_eq!(contents(&again), before, "what was never written reads as reserved");
}

#[test]
fn an_append_that_saw_an_older_control_state_is_moved() {
    let place = Place::new();
    let journal = place.create(options());
    journal.append(&[record(Kind::AgentBan, 1)], 0).unwrap();
    assert_eq!(
        journal.append(&[issue(2)], 0),
        Err(AppendError::Moved { control_head: 2 })
    );
    assert_eq!(journal.size(), 2);
    assert_eq!(journal.append(&[issue(2)], 2), Ok(2));
    // A new entry takes nothing away.
    journal.append(&[record(Kind::EntryPut, 3)], 2).unwrap();
    assert_eq!(journal.append(&[issue(4)], 2), Ok(4));
}

#[test]
fn groups_out_of_limits_are_refused() {
    let place = Place::new();
    let journal = place.create(options());
    assert_eq!(journal.append(&[], 0), Err(AppendError::TooLarge));
    assert_eq!(
        journal.append(&group(0, GROUP_RECORDS_MAX as u64 + 1), 0),
        Err(AppendError::TooLarge)
    );
    assert_eq!(journal.size(), 1);
}

#[test]
fn a_missing_or_emptied_ledger_is_refused_and_nothing_is_made() {
    let place = Place::new();
    assert!(matches!(place.open(), Err(LedgerError::Missing { .. })));
    assert!(!place.ledger().exists());
    drop(place.create(options()));
    for part in [
        "policy",
        "a1b2",
        "a1b2/2025-12",
        "a1b2/2025-12/head",
        "a1b2/2025-12/checkpoint",
    ] {
        let damaged = place.copy();
        let path = damaged.ledger().join(part);
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        let error = damaged.open().unwrap_err();
        assert!(matches!(error, LedgerError::Missing { .. }), "{part}: {error}");
        assert!(!path.exists(), "{part}");
    }
    let damaged = place.copy();
    fs::remove_file(damaged.wal(1)).unwrap();
    assert!(matches!(damaged.open(), Err(LedgerError::Missing { .. })));
    for file in ["policy", "a1b2/2025-12/checkpoint", "a1b2/2025-12/head/00000001.wal"] {
        let damaged = place.copy();
        fs::write(damaged.ledger().join(file), b"").unwrap();
        assert!(damaged.open().is_err(), "{file}");
    }
}

#[test]
fn a_ledger_is_created_once() {
    let place = Place::new();
    drop(place.create(options()));
    let again = FileJournal::create(&place.ledger(), &origin(), &key(), opening(), options());
    assert!(matches!(again, Err(LedgerError::Exists(_))));
    // Without its policy file, too: an accident must not become an empty ledger.
    fs::remove_file(place.ledger().join("policy")).unwrap();
    let again = FileJournal::create(&place.ledger(), &origin(), &key(), opening(), options());
    assert!(matches!(again, Err(LedgerError::Exists(_))));
    let other = Place::new();
    let wrong = FileJournal::create(&other.ledger(), &origin(), &key(), issue(1), options());
    assert!(matches!(wrong, Err(LedgerError::Record(_))));
}

#[test]
fn a_second_process_is_refused() {
    let place = Place::new();
    let journal = place.create(options());
    assert!(matches!(place.open(), Err(LedgerError::Locked(_))));
    drop(journal);
    place.open().unwrap();
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let place = Place::new();
    drop(place.create(options()));
    fs::set_permissions(place.ledger(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = place.open().unwrap_err().to_string();
    assert!(error.contains("chmod 700"), "{error}");
    fs::set_permissions(place.ledger(), fs::Permissions::from_mode(0o700)).unwrap();
    place.open().unwrap();
    let linked = Place::new();
    std::os::unix::fs::symlink(place.ledger(), linked.ledger()).unwrap();
    assert!(matches!(linked.open(), Err(LedgerError::Unsafe { .. })));
    let head = place.wal(1);
    let moved = head.with_extension("moved");
    fs::rename(&head, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &head).unwrap();
    assert!(matches!(place.open(), Err(LedgerError::Unsafe { .. })));
}

#[test]
fn a_ledger_older_than_the_state_view_is_refused() {
    let place = Place::new();
    let journal = place.create(options());
    journal.append(&group(1, 4), 0).unwrap();
    drop(journal);
    assert!(place.open_applied(4).is_ok());
    let error = place.open_applied(5).unwrap_err();
    assert!(
        matches!(error, LedgerError::RolledBack { have: 4, need: 5, .. }),
        "{error}"
    );
}

#[test]
fn checkpoints_replace_one_another_by_size() {
    let place = Place::new();
    let journal = place.create(options());
    journal.append(&group(1, 4), 0).unwrap();
    let sign = |size, root| {
        key().sign(Checkpoint {
            origin: origin(),
            size,
            root,
        })
    };
    drop(journal);
    let journal = place.open().unwrap();
    let root = journal.recovered().root;
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 1);
    assert!(matches!(
        journal.cas_checkpoint(2, &sign(4, root)),
        Err(LedgerError::CheckpointMoved {
            current: 1,
            expected: 2
        })
    ));
    assert!(journal.cas_checkpoint(1, &sign(5, root)).is_err());
    journal.cas_checkpoint(1, &sign(4, root)).unwrap();
    assert!(journal.cas_checkpoint(4, &sign(3, root)).is_err());
    drop(journal);
    assert_eq!(place.open().unwrap().recovered().checkpoint_size, 4);

    // A signed root that is not the log's: somebody forked it.
    let other = key().sign(Checkpoint {
        origin: origin(),
        size: 4,
        root: crate::empty_root(),
    });
    fs::write(place.shard().join("checkpoint"), other.to_string()).unwrap();
    assert!(matches!(place.open(), Err(LedgerError::Forked { size: 4, .. })));
    let ahead = sign(9, root).to_string();
    fs::write(place.shard().join("checkpoint"), &ahead).unwrap();
    assert!(matches!(
        place.open(),
        Err(LedgerError::RolledBack { have: 4, need: 9, .. })
    ));
    fs::write(place.shard().join("checkpoint"), ahead.replace("\n9\n", "\n4\n")).unwrap();
    assert!(matches!(place.open(), Err(LedgerError::Signature(_))));
}

fn many_files() -> OpenOptions {
    OpenOptions {
        file_bytes: 16 * 1024,
        ..options()
    }
}

#[test]
fn a_log_of_many_files_reads_from_any_index() {
    let place = Place::new();
    let journal = place.create(many_files());
    let mut next = 1;
    while next < 700 {
        let step = 1 + next % 13;
        journal.append(&group(next, next + step), 0).unwrap();
        next += step;
    }
    let warm = contents(&journal);
    assert!(place.wal(20).exists());
    drop(journal);
    let journal = FileJournal::open(&place.ledger(), many_files()).unwrap();
    assert_eq!(contents(&journal), warm);
    for at in (0..warm.len()).rev().step_by(7) {
        let read = journal.read_from(at as u64, 3).unwrap();
        assert_eq!(read[0].bytes(), warm[at], "{at}");
    }
    assert!(journal.read_from(journal.size(), 5).unwrap().is_empty());
    assert!(journal.read_from(u64::MAX, 5).unwrap().is_empty());
    journal.append(&group(next, next + 3), 0).unwrap();
    assert_eq!(journal.read_from(next, 9).unwrap().len(), 3);
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let place = Place::new();
    let journal = place.create(many_files());
    for i in 0..100 {
        journal.append(&group(i * 3, i * 3 + 3), 0).unwrap();
    }
    drop(journal);
    let last = (1..).find(|n| !place.wal(n + 1).exists()).unwrap();
    assert!(last >= 5);
    for number in [1, 2, last - 1, last] {
        let damaged = place.copy();
        fs::remove_file(damaged.wal(number)).unwrap();
        let error = damaged.open().unwrap_err();
        assert!(matches!(error, LedgerError::Missing { .. }), "{number}: {error}");
        let damaged = place.copy();
        fs::copy(place.wal(number % last + 1), damaged.wal(number)).unwrap();
        assert!(damaged.open().is_err(), "{number}");
    }
    // The same file of another ledger.
    let other = Place::new();
    let origin = crate::Origin::parse("dev.test/mintage/ffff/2025-12").unwrap();
    let open = crate::wire::LogOpen {
        origin: origin.to_string(),
        vkey: key().vkey(&origin).to_string(),
        ..Default::default()
    };
    let opening = crate::samples::head(0, crate::Body::LogOpen(open)).encode().unwrap();
    drop(FileJournal::create(&other.ledger(), &origin, &key(), opening, options()).unwrap());
    fs::copy(other.ledger().join("ffff/2025-12/head/00000001.wal"), place.wal(1)).unwrap();
    let error = place.open().unwrap_err().to_string();
    assert!(error.contains("another log"), "{error}");
}
