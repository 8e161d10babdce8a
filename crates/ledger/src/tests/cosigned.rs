//! Cosignatures of witnesses in the stored checkpoint, beside whoever signs the next one.

use std::sync::atomic::{AtomicBool, Ordering};

use mintage_identity::UnixTime;
use zeroize::Zeroizing;

use super::kit::{Place, group, key, options, origin};
use crate::{Checkpoint, Cosigner, Journal, LedgerError, LogKey, SignedNote, Tree};

#[test]
fn witnesses_lines_are_added_to_the_checkpoint_they_are_about_and_to_no_other() {
    let place = Place::new();
    let journal = place.create(options());
    journal.append(&group(1, 4), 0).unwrap();
    let witness = |name: &str, seed| {
        let (pair, _) = LogKey::generate(&Zeroizing::new([seed; 32])).unwrap();
        Cosigner::new(name, pair).unwrap()
    };
    let (one, two) = (witness("w1", 5), witness("w2", 6));
    let line = |witness: &Cosigner, note: &SignedNote, seconds| {
        let time = UnixTime::from_seconds(seconds);
        witness.cosign(note, time).unwrap()
    };
    let first = journal.checkpoint().unwrap();
    let text = first.note().text().to_owned();
    for (witness, seconds) in [(&one, 7), (&two, 7), (&one, 9)] {
        journal
            .add_cosignatures(&text, &[line(witness, first.note(), seconds)])
            .unwrap();
    }
    // The same head, signed again, keeps them; another root of that size is a fork.
    journal.cas_checkpoint(1, &first).unwrap();
    let stored = journal.checkpoint().unwrap();
    assert_eq!(stored.note().signatures().len(), 3);
    for (key, seconds) in [(one.key(), 9), (two.key(), 7)] {
        assert_eq!(key.time_on(stored.note()).unwrap().unwrap().seconds(), seconds);
    }
    let sign = |size, root| {
        key().sign(Checkpoint {
            origin: origin(),
            size,
            root,
        })
    };
    let fork = journal.cas_checkpoint(1, &sign(1, crate::empty_root()));
    assert!(matches!(fork, Err(LedgerError::Forked { size: 1, .. })));

    drop(journal);
    let journal = place.open().unwrap();
    assert_eq!(journal.checkpoint().unwrap(), stored, "they are durable");
    // A line that comes too late neither brings the old checkpoint back nor goes to the new one.
    journal.cas_checkpoint(1, &sign(4, journal.recovered().root)).unwrap();
    let late = journal.add_cosignatures(&text, &[line(&one, first.note(), 11)]);
    assert!(matches!(
        late,
        Err(LedgerError::CheckpointMoved {
            current: 4,
            expected: 1
        })
    ));
    assert_eq!(journal.checkpoint().unwrap().note().signatures().len(), 1);
}

#[test]
fn cosignatures_and_checkpoints_that_come_at_once_lose_neither() {
    let place = Place::new();
    let journal = place.create(options());
    journal.append(&group(1, 65), 0).unwrap();
    drop(journal);
    let journal = place.open().unwrap();
    let tree = Tree::new(&place.shard(), std::sync::Arc::new(crate::LocalDisk));
    for stored in journal.read_from(0, 100).unwrap() {
        tree.push(stored.leaf_hash()).unwrap();
    }
    let (pair, _) = LogKey::generate(&Zeroizing::new([5; 32])).unwrap();
    let witness = Cosigner::new("w", pair).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let mut added = 0;
            while !done.load(Ordering::Acquire) {
                let seen = journal.checkpoint().unwrap();
                let time = UnixTime::from_seconds(7);
                let line = witness.cosign(seen.note(), time).unwrap();
                match journal.add_cosignatures(seen.note().text(), &[line]) {
                    Ok(()) => added += 1,
                    Err(LedgerError::CheckpointMoved { current, expected }) => assert!(current > expected),
                    Err(error) => panic!("{error}"),
                }
            }
            added
        });
        for size in 2..=65 {
            let root = tree.root_at(size).unwrap();
            let head = Checkpoint {
                origin: origin(),
                size,
                root,
            };
            // The one who signs is never told that a line made the checkpoint another one.
            journal.cas_checkpoint(size - 1, &key().sign(head)).unwrap();
        }
        done.store(true, Ordering::Release);
        assert!(adding.join().unwrap() > 0);
    });
    let stored = journal.checkpoint().unwrap();
    assert_eq!(stored.checkpoint().size, 65);
    stored.note().verify(journal.log().vkey()).unwrap();
}
