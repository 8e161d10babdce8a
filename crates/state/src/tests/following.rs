//! The state over a real ledger: catching up, waiting, racing, and what it refuses to open.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mintage_identity::{AgentName, SpkiHash, TrustDomain};
use mintage_ledger::{CommitError, Committer, CommitterLimits, FileJournal, Follower, Integrator, Journal, Trees};

use super::samples::*;
use crate::command::{TokenUse, consume_token};
use crate::{Ignored, State, StateError, TokenId, View};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
}

fn open(dir: &std::path::Path, journal: &Arc<FileJournal>) -> Result<State, StateError> {
    State::open(&dir.join("state"), &domain(), Arc::clone(journal) as Arc<dyn Journal>)
}

/// Waits for something that a thread does within a second or so.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_catches_up_follows_and_finds_itself_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "follow");
    append(&*journal, [record(1, put("web", "n1", 300, 0)), workload_issue(2, 1)]);
    let state = open(dir.path(), &journal).unwrap();
    assert_eq!(
        (state.view().applied(), state.view().entry_count(), state.durable()),
        (3, 1, 3)
    );

    let last = append(
        &*journal,
        [record(3, put("db", "n1", 300, 0)), record(4, put("db", "n2", 300, 0))],
    );
    let view = runtime().block_on(state.wait_applied(last)).unwrap();
    assert_eq!(
        (view.ignored(last - 1), view.ignored(last)),
        (None, Some(Ignored::EntryMoved))
    );
    let digest = view.digest();
    soon("the store is written", || state.durable() == last + 1);
    state.close();

    assert_eq!(State::seen(&dir.path().join("state")).unwrap(), last + 1);
    let state = open(dir.path(), &journal).unwrap();
    assert_eq!(state.view().digest(), digest);
    drop(state);
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    assert_eq!(
        open(dir.path(), &journal).unwrap().view().digest(),
        digest,
        "rebuilt from the ledger alone"
    );
}

#[test]
fn what_came_while_it_was_closed_is_applied_and_a_clean_stop_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "stop");
    for round in 0_u8..5 {
        let state = open(dir.path(), &journal).unwrap();
        let last = append(&*journal, [record(1, token(round, "n1", 60))]);
        drop(state);
        assert_eq!(
            State::seen(&dir.path().join("state")).unwrap(),
            last + 1,
            "the last view is written before the end"
        );
        append(&*journal, [record(2, consume(round, "n1", round))]);
    }
    assert_eq!(open(dir.path(), &journal).unwrap().view().token_count(), 5);
}

#[test]
fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "second");
    let state = open(dir.path(), &journal).unwrap();
    let started = Instant::now();
    assert!(matches!(open(dir.path(), &journal), Err(StateError::Locked(_))));
    assert!(started.elapsed() < Duration::from_secs(2));
    drop(state);
    open(dir.path(), &journal).unwrap();
}

#[test]
fn a_state_ahead_of_its_ledger_is_refused_even_when_its_store_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let done = std::process::Command::new("cp")
            .args(["-a", from, to])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(done.success());
    };
    let journal = new_ledger(dir.path(), "ahead");
    append(&*journal, [record(1, put("web", "n1", 300, 0))]);
    drop(journal);
    copy("ledger", "old");
    let journal = open_ledger(dir.path());
    append(
        &*journal,
        [record(2, delete("web", 1)), record(3, revoke(&[1], Vec::new()))],
    );
    drop(open(dir.path(), &journal).unwrap());
    drop(journal);
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    fs::rename(dir.path().join("old"), dir.path().join("ledger")).unwrap();
    copy("state", "kept");

    let journal = open_ledger(dir.path());
    let ahead = |state: &str| {
        let opened = State::open(
            &dir.path().join(state),
            &domain(),
            Arc::clone(&journal) as Arc<dyn Journal>,
        );
        let error = opened.expect_err("must be refused");
        assert!(
            matches!(
                error,
                StateError::Ahead {
                    applied: 4,
                    ledger: 2,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("rolled back"), "{error}");
    };
    ahead("state");
    fs::remove_dir_all(dir.path().join("state/sled")).unwrap();
    ahead("state");
    fs::remove_file(dir.path().join("kept/watermark")).unwrap();
    ahead("kept");
}

#[test]
fn a_state_that_knows_a_ledger_is_refused_over_an_empty_or_another_one() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let journal = new_ledger(dir.path(), "known");
    append(&*journal, [record(1, put("web", "n1", 300, 0))]);
    drop(open(dir.path(), &journal).unwrap());
    drop(journal);

    let empty = new_ledger(other.path(), "fresh");
    assert!(matches!(
        open(dir.path(), &empty),
        Err(StateError::Ahead {
            applied: 2,
            ledger: 1,
            ..
        })
    ));
    append(
        &*empty,
        [record(1, put("web", "n1", 300, 0)), record(2, put("db", "n1", 300, 0))],
    );
    assert!(matches!(
        open(dir.path(), &empty),
        Err(StateError::OtherLedger { index: 1, .. })
    ));
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    assert_eq!(
        open(dir.path(), &empty).unwrap().view().entry_count(),
        2,
        "with the state gone the ledger is the truth"
    );
}

#[test]
fn another_trust_domain_and_unsafe_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "domain");
    drop(open(dir.path(), &journal).unwrap());
    let place = dir.path().join("state");
    let other = TrustDomain::parse("other.test").unwrap();
    let opened = State::open(&place, &other, Arc::clone(&journal) as Arc<dyn Journal>);
    assert!(matches!(opened, Err(StateError::OtherDomain { .. })));

    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let error = open(dir.path(), &journal).expect_err("must be refused").to_string();
    assert!(error.contains("can be written by others; chmod"), "{error}");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&place, dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("real"), &place).unwrap();
    assert!(
        open(dir.path(), &journal)
            .expect_err("must be refused")
            .to_string()
            .contains("is no directory")
    );
    fs::remove_file(&place).unwrap();
    fs::rename(dir.path().join("real"), &place).unwrap();
    fs::remove_file(place.join("lock")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place.join("lock")).unwrap();
    assert!(matches!(open(dir.path(), &journal), Err(StateError::Io { .. })));
}

#[test]
fn a_store_that_cannot_be_written_stops_nothing_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "full");
    let state = open(dir.path(), &journal).unwrap();
    // A folder where the new watermark goes fails for root as well.
    let block = dir.path().join("state/watermark.new");
    fs::create_dir(&block).unwrap();
    let last = append(&*journal, [record(1, put("web", "n1", 300, 0))]);
    assert_eq!(runtime().block_on(state.wait_applied(last)).unwrap().entry_count(), 1);
    soon("the problem is told", || state.store_problem().is_some());
    assert!(state.trouble().is_none() && state.durable() < last + 1);
    fs::remove_dir(&block).unwrap();
    soon("it is written after all", || state.durable() == last + 1);
    assert_eq!(state.store_problem(), None);
}

#[test]
fn whoever_waits_for_a_state_that_has_ended_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "ended");
    let state = open(dir.path(), &journal).unwrap();
    // A revocation that cannot be read must stop the state rather than be passed over.
    append(
        &*journal,
        [
            record(1, revoke(&[], vec![identity_rule("no id", None)])),
            record(2, put("web", "n1", 300, 0)),
        ],
    );
    let waited = runtime().block_on(state.wait_applied(2));
    assert!(matches!(waited, Err(StateError::Stopped)));
    assert!(
        state
            .trouble()
            .is_some_and(|why| why.contains("record 1 cannot be applied")),
        "{:?}",
        state.trouble()
    );
    assert_eq!(state.view().applied(), 1);
    drop(state);
    assert!(matches!(
        open(dir.path(), &journal),
        Err(StateError::Record { index: 1, .. })
    ));
}

#[test]
fn sixty_four_nodes_race_for_one_token_and_one_agent_comes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "race");
    let state = Arc::new(open(dir.path(), &journal).unwrap());
    let last = append(&*journal, [record(1, token(7, "n1", 600))]);
    let (committer, commits) = Committer::start(journal, CommitterLimits::default()).unwrap();
    let runtime = runtime();
    runtime.block_on(state.wait_applied(last)).unwrap();

    let join = |key: u8| {
        let (state, commits) = (Arc::clone(&state), commits.clone());
        async move {
            let used = TokenUse {
                token: TokenId::new([7; 32]),
                spki: SpkiHash::new([key; 32]),
                kind: "join_token",
                evidence: [0; 32],
            };
            loop {
                let view = state.view();
                let Ok(body) = consume_token(&view, &used) else {
                    return None;
                };
                let draft = record(2, body).encode().unwrap();
                let answer = commits
                    .submit(vec![(draft, view.control_head())])
                    .outcomes()
                    .await
                    .pop()
                    .unwrap();
                match answer {
                    Err(CommitError::Moved { control_head }) => {
                        state.wait_applied(control_head - 1).await.unwrap();
                    }
                    Err(other) => panic!("{other}"),
                    Ok(receipt) => {
                        let view = state.wait_applied(receipt.position()).await.unwrap();
                        return view.ignored(receipt.position()).is_none().then_some(key);
                    }
                }
            }
        }
    };
    let tasks: Vec<_> = (0..64).map(|key| runtime.spawn(join(key))).collect();
    let won: Vec<u8> = tasks
        .into_iter()
        .filter_map(|task| runtime.block_on(task).unwrap())
        .collect();
    assert_eq!(won.len(), 1, "{won:?}");
    let view = state.view();
    let agent = view.agent(&AgentName::parse("n1").unwrap()).unwrap();
    assert_eq!(agent.spki, SpkiHash::new([won[0]; 32]));
    assert_eq!(view.agent_count(), 1);
    committer.stop();
}

#[test]
fn pruning_drops_the_dead_and_changes_no_digest() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "prune");
    append(&*journal, [record(1, revoke(&[1, 2, 3], Vec::new()))]);
    let state = open(dir.path(), &journal).unwrap();
    let before = state.view();
    assert_eq!(before.revoked().serial_count(), 3);
    state.prune(NOW.plus(Duration::from_secs(86_400)));
    let last = append(&*journal, [workload_issue(2, 1)]);
    runtime().block_on(state.wait_applied(last)).unwrap();
    soon("it is pruned", || state.view().revoked().serial_count() == 0);
    assert_eq!(state.view().revoked().hash(), before.revoked().hash());
    let digest = state.view().digest();
    drop(state);
    assert_eq!(open(dir.path(), &journal).unwrap().view().digest(), digest);
}

/// Whoever follows the log, by whatever path its records came, gets the same state and the same tree.
#[test]
fn a_second_follower_of_the_same_journal_gets_the_same_state_and_root() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "two");
    let shared = || Arc::clone(&journal) as Arc<dyn Journal>;
    let state = |name: &str| State::open(&dir.path().join(name), &domain(), shared()).unwrap();
    let tree = |name: &str| {
        let trees = Trees::new(&dir.path().join(name), shared(), Arc::new(mintage_ledger::LocalDisk));
        let sink = Integrator::new(shared(), Arc::clone(&trees), None, Duration::ZERO).unwrap();
        let follower = Follower::start("tree", shared(), vec![Box::new(sink)], Duration::ZERO).unwrap();
        (trees.growing().1, follower)
    };
    let (first, (one, one_follows)) = (state("first"), tree("one"));
    let (committer, commits) = Committer::start(shared(), CommitterLimits::default()).unwrap();
    // Two writers race; what one decided on an older state is decided again.
    let writers: Vec<_> = (0..2u8)
        .map(|writer| {
            let (commits, journal) = (commits.clone(), Arc::clone(&journal));
            std::thread::spawn(move || {
                for round in 0..60u8 {
                    let name = format!("e{}-{}", writer, round % 7);
                    let body = match round % 5 {
                        0 => token(writer * 100 + round, "n1", 600),
                        1 => workload_issue(round.into(), writer * 100 + round).body,
                        _ => put(&name, "n1", 300 + u32::from(round), 0),
                    };
                    let encoded = record(round.into(), body).encode().unwrap();
                    while let Err(error) = commits
                        .submit(vec![(encoded.clone(), journal.control_head())])
                        .wait()
                        .remove(0)
                    {
                        assert!(matches!(error, CommitError::Moved { .. }), "{error}");
                    }
                }
            })
        })
        .collect();
    // It begins in the middle of it.
    let (second, (other, other_follows)) = (state("second"), tree("other"));
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    committer.stop();
    let last = journal.size() - 1;
    let wait = |state: &State| runtime().block_on(state.wait_applied(last)).unwrap().digest();
    assert_eq!(wait(&first), wait(&second));
    one_follows.stop();
    other_follows.stop();
    assert_eq!(
        (one.size(), one.root().unwrap()),
        (journal.size(), other.root().unwrap())
    );
    // And so does one that comes when all is over, and one that applies the records one by one.
    assert_eq!(wait(&state("third")), first.view().digest());
    let mut alone = View::new(&domain());
    for index in 0..journal.size() {
        alone.apply_stored(&journal.read_from(index, 1).unwrap()[0]).unwrap();
    }
    assert_eq!(alone.digest(), first.view().digest());
}
