//! Snapshots: what stands for records that were given up is what they said, or it is refused.

use std::sync::Arc;
use std::time::Duration;

use mintage_ledger::Journal;
use mintage_ledger::wire::{CaEventKind, CaRole};
use proptest::prelude::*;

use super::samples::*;
use crate::{State, StateError, View, snapshot};

/// A state of everything there can be, the folder it lies in, and its snapshot.
fn ready() -> (tempfile::TempDir, State, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "snapshots");
    append(
        &*journal,
        (0..30).map(|n| record(1, put(&format!("e{n}"), "n1", 60 + n, 0))),
    );
    append(
        &*journal,
        [record(2, token(1, "n1", 600)), record(2, token(2, "n2", 600))],
    );
    let joined = append(
        &*journal,
        [record(3, consume(1, "n1", 7)), record(3, consume(2, "n2", 8))],
    );
    append(
        &*journal,
        [agent_issue(4, "n1", joined - 1, 40), record(5, ban("n2", joined))],
    );
    let rule = identity_rule("spiffe://dev.test/web", Some(NOW.seconds()));
    append(
        &*journal,
        [
            record(6, revoke(&[40, 41], vec![rule])),
            record(7, delete("e3", 4)),
            record(8, bundle(1)),
        ],
    );
    let state = State::open(
        &dir.path().join("state"),
        &domain(),
        Arc::clone(&journal) as Arc<dyn Journal>,
    )
    .unwrap();
    append(&*journal, [record(9, put("late", "n1", 60, 0))]);
    let snapshot = state.snapshot(journal.size(), NOW).unwrap();
    (dir, state, snapshot)
}

#[test]
fn a_snapshot_is_the_view_and_the_same_for_every_replica() {
    let (dir, state, snapshot) = ready();
    let view = state.view();
    let read = View::from_snapshot(&domain(), &snapshot).unwrap();
    assert_eq!(
        (read.digest(), read.applied(), read.control_head()),
        (view.digest(), view.applied(), view.control_head())
    );
    assert_eq!(read.revoked().hash(), view.revoked().hash());
    assert_eq!(read.entries().count(), 30);
    let asked_again = state.snapshot(view.applied(), NOW).unwrap();
    assert!(asked_again == snapshot);
    assert!(
        matches!(state.snapshot(view.applied() - 1, NOW), Err(StateError::NoSnapshot(_))),
        "it is beyond it"
    );
    drop(state);
    // Built from the records alone.
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let journal = open_ledger(dir.path());
    let other = State::open(
        &dir.path().join("state"),
        &domain(),
        Arc::clone(&journal) as Arc<dyn Journal>,
    )
    .unwrap();
    append(&*journal, [workload_issue(10, 9)]);
    let more = other.snapshot(journal.size(), NOW).unwrap();
    let head = 16 + 8;
    assert!(
        more[head..more.len() - 32] == snapshot[head..snapshot.len() - 32],
        "only the count of records differs"
    );
}

/// Seconds after which nothing of a revocation at the start can matter: no certificate lives longer than a day.
const LONG: i64 = 30 * 3600;

/// A ledger with a revocation of long ago, one on a key, which never ends, and one of just now; and its state.
fn with_dead_revocations() -> (tempfile::TempDir, Arc<mintage_ledger::FileJournal>, State) {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "dead");
    let rule = identity_rule("spiffe://dev.test/web", Some(NOW.seconds()));
    let key = mintage_ledger::wire::RevocationRule {
        target: Some(mintage_ledger::wire::revocation_rule::Target::SpkiSha256(vec![5; 32])),
        cut_s: None,
    };
    let late = identity_rule("spiffe://dev.test/db", Some(NOW.seconds() + LONG));
    append(
        &*journal,
        [
            record(
                1,
                ca_event(
                    CaEventKind::Activate,
                    CaRole::Intermediate,
                    0xca,
                    NOW.seconds() + 100 * LONG,
                ),
            ),
            record(2, put("e", "n1", 60, 0)),
            record(3, revoke(&[1, 2, 3], vec![rule])),
            record(4, revoke(&[4], vec![key])),
            record(LONG, revoke(&[5], vec![late])),
        ],
    );
    let state = opened(dir.path(), "state", &journal);
    append(&*journal, [record(LONG, put("late", "n1", 60, 0))]);
    (dir, journal, state)
}

fn opened(dir: &std::path::Path, name: &str, journal: &Arc<mintage_ledger::FileJournal>) -> State {
    State::open(&dir.join(name), &domain(), Arc::clone(journal) as Arc<dyn Journal>).unwrap()
}

#[test]
fn revocations_of_what_ended_long_ago_are_left_out_and_every_replica_leaves_out_the_same() {
    let (dir, journal, state) = with_dead_revocations();
    let (size, now) = (journal.size(), NOW.plus(Duration::from_secs(LONG.unsigned_abs())));
    let whole = state.snapshot(size, NOW.plus(Duration::from_secs(60))).unwrap();
    let pruned = state.snapshot(size, now).unwrap();
    assert!(pruned.len() < whole.len());
    let set = |bytes: &[u8]| View::from_snapshot(&domain(), bytes).unwrap().revoked().clone();
    let (all, living) = (set(&whole), set(&pruned));
    assert_eq!((all.serial_count(), all.rules().count()), (5, 3));
    // The serials that stand beside what lives go with their record.
    assert_eq!((living.serial_count(), living.rules().count()), (2, 2));
    assert_eq!((living.sequence(), living.hash()), (all.sequence(), all.hash()));

    let other = opened(dir.path(), "other", &journal);
    append(&*journal, [workload_issue(LONG, 9)]);
    let again = other.snapshot(size + 1, now).unwrap();
    let head = 16 + 8;
    assert!(
        again[head..again.len() - 32] == pruned[head..pruned.len() - 32],
        "only the count of records differs"
    );
    // A replica that began with the pruned snapshot goes on to the same set, and writes the same snapshot.
    let mut resumed = View::from_snapshot(&domain(), &pruned).unwrap();
    append(&*journal, [record(LONG + 1, revoke(&[6], Vec::new()))]);
    for stored in journal.read_from(size, 10).unwrap() {
        resumed.apply_stored(&stored).unwrap();
    }
    let followed = View::of_journal(&domain(), &*journal).unwrap();
    assert_eq!(resumed.revoked().hash(), followed.revoked().hash());
    assert!(
        resumed.revoked().hash_at(living.sequence()).is_some(),
        "a delta reaches back to where it began"
    );
    assert!(resumed.revoked().hash_at(living.sequence() - 1).is_none());

    let later = now.plus(Duration::from_secs(LONG.unsigned_abs()));
    let (view, objects) = snapshot::decode(&domain(), &pruned).unwrap();
    let from_pruned = snapshot::encode(&view, objects, later);
    let (view, objects) = snapshot::decode(&domain(), &whole).unwrap();
    assert!(
        from_pruned == snapshot::encode(&view, objects, later),
        "what was left out before is left out again"
    );
    assert_eq!(
        (set(&from_pruned).serial_count(), set(&from_pruned).rules().count()),
        (1, 1),
        "a key stays blocked"
    );
}

#[test]
fn a_snapshot_of_another_domain_is_refused() {
    let (_dir, _state, snapshot) = ready();
    let other = mintage_identity::TrustDomain::parse("other.test").unwrap();
    assert!(matches!(
        View::from_snapshot(&other, &snapshot),
        Err(StateError::Snapshot(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: rounds(64), ..ProptestConfig::default() })]

    #[test]
    fn damage_is_refused_and_nothing_panics(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        use std::sync::OnceLock;
        static SNAPSHOT: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = SNAPSHOT.get_or_init(|| ready().2).clone();
        let place = at.index(bytes.len());
        match cut {
            true => bytes.truncate(place),
            false => bytes[place] ^= 1 << bit,
        }
        prop_assert!(View::from_snapshot(&domain(), &bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_snapshot(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(View::from_snapshot(&domain(), &bytes).is_err());
    }
}
