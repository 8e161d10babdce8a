//! A log that ends while somebody reads it, and the last that a ledger can have.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    kit::{Place, integrate, key, keys, options, origin, record},
    shards::{append, roll, sealed, snapshot, trees_of},
};
use crate::{
    Body, FileJournal, Journal, Kind, LogKey, LogKeys, Origin, RecordCheck, Roll, Sealer, ShardBegin, Stored, Vkey,
    samples, verify, verify_indexes,
};

/// Ends the log that is written, seals it and lets its files go, at the first record of the ledger that it is shown.
struct Ending<'a> {
    journal: &'a Arc<FileJournal>,
    keys: &'a Arc<LogKeys>,
    /// When it does so: as this log begins, or at the first record of all.
    at: Option<u64>,
    done: std::cell::Cell<bool>,
    records: u64,
}

impl Ending<'_> {
    fn end(&self) {
        if self.done.replace(true) {
            return;
        }
        let trees = trees_of(self.journal, self.keys);
        roll(self.journal, self.keys, 9).unwrap();
        append(self.journal, 3);
        integrate(self.journal, &trees, Some(self.keys.clone()));
        let mut sealer = Sealer::new(self.journal.clone(), trees);
        while sealer.seal_next().unwrap() {}
        self.journal.release_sealed().unwrap();
    }
}

impl RecordCheck for Ending<'_> {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        if self.at == Some(begin.log.first()) {
            self.end();
        }
        Ok(())
    }

    fn record(&mut self, _: &Vkey, _: &Stored) -> Result<(), String> {
        if self.at.is_none() {
            self.end();
        }
        self.records += 1;
        Ok(())
    }
}

#[test]
fn a_shard_that_is_closed_and_sealed_while_a_verifier_reads_is_no_damage() {
    // Before the last shard is looked at, and after.
    for at in [None, Some(700)] {
        let place = Place::new();
        let (journal, keys, _) = sealed(&place);
        let mut ending = Ending {
            journal: &journal,
            keys: &keys,
            at,
            done: false.into(),
            records: 0,
        };
        let reports = verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ending).unwrap();
        assert!(ending.done.get() && reports.len() == 3, "{at:?}");
        assert!(ending.records >= 900, "{at:?}: {}", ending.records);
        verify(&place.ledger(), None, &mut ()).unwrap();
    }
    let place = Place::new();
    let (journal, keys, _) = sealed(&place);
    let ending = Ending {
        journal: &journal,
        keys: &keys,
        at: None,
        done: false.into(),
        records: 0,
    };
    let go_on = || {
        ending.end();
        true
    };
    assert_eq!(verify_indexes(&place.ledger(), &go_on).unwrap(), 3);
}

#[test]
fn a_ledger_ends_no_log_when_its_policy_can_name_no_more() {
    let place = Place::new();
    let (journal, keys) = (place.create(options()), keys());
    let begin = |number: u32| {
        let origin = format!("dev.test/mintage/a1b2/{}-{:02}", 2026 + number / 12, number % 12 + 1);
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&(number + 1).to_be_bytes());
        let key = LogKey::generate(&Zeroizing::new(seed)).unwrap().0;
        let roll = Roll {
            next: &Origin::parse(&origin).unwrap(),
            key,
            closing: record(Kind::LogClose, 7),
            snapshot: &mut |position| Ok(snapshot(position)),
            opening: &mut |open| samples::head(u64::from(number), Body::LogOpen(open)).encode(),
        };
        journal.roll(&keys, roll)
    };
    let most = crate::limits::POLICY_LOGS_MAX;
    for number in 1..most as u32 {
        journal.check_room_for_log().unwrap();
        begin(number).unwrap();
    }
    let size = journal.size();
    let refused = begin(most as u32).unwrap_err().to_string();
    assert!(refused.contains("as many as a policy can name"), "{refused}");
    assert!(journal.check_room_for_log().is_err());
    // Nothing was written, and it goes on, now and after a start.
    assert_eq!((journal.logs().len(), journal.size()), (most, size));
    append(&journal, 5);
    drop(journal);
    assert_eq!(place.open().unwrap().size(), size + 5);
    verify(&place.ledger(), Some(&[key().vkey(&origin())]), &mut ()).unwrap();
}
