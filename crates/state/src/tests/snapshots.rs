//! Snapshots: what stands for records that were given up is what they said, or it is refused.

use std::sync::Arc;

use mintage_ledger::Journal;
use proptest::prelude::*;

use super::samples::*;
use crate::{State, StateError, View};

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
    let snapshot = state.snapshot(journal.size()).unwrap();
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
    let asked_again = state.snapshot(view.applied()).unwrap();
    assert!(asked_again == snapshot);
    assert!(
        matches!(state.snapshot(view.applied() - 1), Err(StateError::NoSnapshot(_))),
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
    let more = other.snapshot(journal.size()).unwrap();
    let head = 16 + 8;
    assert!(
        more[head..more.len() - 32] == snapshot[head..snapshot.len() - 32],
        "only the count of records differs"
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
