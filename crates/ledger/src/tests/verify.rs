//! Offline verification names the place of whatever was done to a ledger's files.

use std::{fs, path::Path, sync::Arc, time::Duration};

use super::kit::{Place, group, integrate, key, keys, options, origin, trees};
use crate::{
    Follower, Integrator, Journal, LedgerError, OpenOptions, RecordCheck, Stored, Trees, Vkey, verify,
    wal::{FRAME_HEAD, FrameKind, GroupHead, Trailer, put_frame, read_frame},
};

/// A signed ledger of 600 records in several files, with tiles.
fn ledger() -> Place {
    let place = Place::new();
    let options = OpenOptions {
        file_bytes: 64 * 1024,
        ..options()
    };
    let journal = Arc::new(place.create(options));
    let shared = Arc::clone(&journal) as Arc<dyn Journal>;
    let integrator = Integrator::new(Arc::clone(&shared), trees(&journal), Some(keys()), Duration::ZERO).unwrap();
    let follower = Follower::start("tree", shared, vec![Box::new(integrator)], Duration::ZERO).unwrap();
    while journal.size() < 600 {
        let next = journal.size();
        journal.append(&group(next, (next + 7).min(600)), 0).unwrap();
    }
    follower.stop();
    place
}

fn check(ledger: &Path) -> Result<u64, LedgerError> {
    verify(ledger, None, &mut ()).map(|shards| shards[0].size)
}

#[test]
fn a_whole_ledger_verifies_live_and_stopped() {
    let place = ledger();
    let report = verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
    assert_eq!(report.len(), 1);
    assert_eq!((report[0].size, report[0].checkpoint.size), (600, 600));
    assert_eq!((report[0].tiles, report[0].tiles_missing), (2, 0));
    assert_eq!(report[0].root, report[0].checkpoint.root);
    let journal = place.open().unwrap();
    journal.append(&group(0, 3), 0).unwrap();
    assert_eq!(check(&place.ledger()).unwrap(), 603);
    fs::remove_dir_all(place.shard().join("seg")).unwrap();
    assert_eq!(verify(&place.ledger(), None, &mut ()).unwrap()[0].tiles_missing, 2);
    let other = Vkey::new(origin().as_str(), [1; 32]).unwrap();
    assert!(matches!(
        verify(&place.ledger(), Some(&[other]), &mut ()),
        Err(LedgerError::Signature(_))
    ));
}

#[test]
fn every_flipped_bit_of_records_checkpoint_or_tiles_is_named() {
    let place = ledger();
    let files: Vec<_> = [
        "head/00000001.wal",
        "head/00000002.wal",
        "head/00000005.wal",
        "checkpoint",
        "seg/00000000.tiles",
    ]
    .iter()
    .map(|file| place.shard().join(file))
    .collect();
    for path in files {
        let whole = fs::read(&path).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..=used).step_by(used / 150 + 1) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, &bytes).unwrap();
            let found = check(&place.ledger());
            assert!(found.is_err(), "{path:?} byte {at}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(check(&place.ledger()).unwrap(), 600);
}

/// Writes a file again with its groups changed, every checksum and root made right, as a patient forger would.
fn forge(place: &Place, change: impl Fn(&mut Vec<Vec<u8>>)) {
    let path = place.wal(1);
    let bytes = fs::read(&path).unwrap();
    let mut at = read_frame(&bytes).unwrap().len();
    let mut out = bytes[..at].to_vec();
    let mut records = Vec::new();
    while let Ok(frame) = read_frame(&bytes[at..]) {
        if frame.kind == FrameKind::Record {
            records.push(frame.payload.to_vec());
        }
        at += frame.len();
    }
    change(&mut records);
    let mut tree = crate::Frontier::new();
    for record in &records {
        let first = tree.size();
        tree.push(crate::leaf_hash(record));
        GroupHead {
            first,
            count: 1,
            bytes: crate::wal::group_bytes([FRAME_HEAD + record.len()].into_iter()) as u32,
        }
        .put(&mut out);
        put_frame(&mut out, FrameKind::Record, record);
        Trailer {
            size: tree.size(),
            root: tree.root(),
        }
        .put(&mut out);
    }
    out.resize(out.len().next_multiple_of(4096), 0);
    fs::write(&path, &out).unwrap();
}

#[test]
fn removed_reordered_altered_and_half_records_are_found() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    journal.append(&group(1, 9), 0).unwrap();
    let elsewhere = Trees::new(&place.ledger().join("other"), journal.clone(), journal.disk().clone());
    integrate(&journal, &elsewhere, Some(keys()));
    drop(journal);
    forge(&place, |_| {});
    assert_eq!(check(&place.ledger()).unwrap(), 9);
    type Change = fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change); 5] = [
        ("removed", |records| drop(records.remove(3))),
        ("reordered", |records| records.swap(3, 4)),
        ("altered", |records| records[3][30] ^= 1),
        ("inserted", |records| records.insert(3, records[4].clone())),
        ("truncated", |records| records.truncate(5)),
    ];
    for (what, change) in changes {
        let forged = place.copy();
        forge(&forged, change);
        let error = check(&forged.ledger()).unwrap_err();
        let told = matches!(
            error,
            LedgerError::Forked { size: 9, .. } | LedgerError::RolledBack { .. }
        );
        assert!(told, "{what}: {error}");
        assert!(forged.open().is_err(), "{what}");
    }
    let mut bytes = fs::read(place.wal(1)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 20..].fill(0);
    fs::write(place.wal(1), &bytes).unwrap();
    assert!(matches!(check(&place.ledger()), Err(LedgerError::RolledBack { .. })));
}

/// Refuses one record.
struct Refuse(u64);

impl RecordCheck for Refuse {
    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        assert_eq!(key.name(), origin().as_str());
        match stored.index() == self.0 {
            true => Err("the entry was deleted".into()),
            false => Ok(()),
        }
    }
}

#[test]
fn a_callers_check_is_reported_with_its_record() {
    let place = ledger();
    match verify(&place.ledger(), None, &mut Refuse(217)).unwrap_err() {
        LedgerError::Corrupt { index, problem, .. } => {
            assert_eq!((index, problem.as_str()), (217, "the entry was deleted"));
        }
        other => panic!("{other}"),
    }
}
