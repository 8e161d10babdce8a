//! Kills at any point: whatever of the store survives, the view after the next start is that of the ledger.
//!
//! The children are this test binary again: it runs one test, which does its work until it dies, and nothing
//! when no parent named a folder for it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mintage_ledger::{Journal, Record};

use super::samples::*;
use crate::store::{Found, Store};
use crate::{State, View};

const DIR: &str = "MINTAGE_STATE_TEST_DIR";

fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The folder that the parent named; none when the test runs by itself.
fn dir_of_child() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// The n-th record of an endless history.
fn nth(n: u64, view: &View) -> Record {
    let name = format!("e{}", n % 40);
    let revision = View::entry(view, &name.parse().unwrap()).map_or(0, |standing| standing.revision);
    let small = u8::try_from(n % 250).unwrap();
    match n % 5 {
        0 | 1 => record(1, put(&name, "n1", 60 + u32::from(small), revision)),
        2 if revision != 0 => record(1, delete(&name, revision)),
        3 => record(1, revoke(&[small], Vec::new())),
        4 => record(1, token(small, "n1", 60)),
        _ => workload_issue(1, small),
    }
}

/// What the ledger alone says.
fn truth(journal: &dyn Journal) -> View {
    let mut view = View::new(&domain());
    while view.applied() < journal.size() {
        for stored in journal.read_from(view.applied(), 1_000).unwrap() {
            view.apply_stored(&stored).unwrap();
        }
    }
    view
}

#[test]
fn child_that_appends_until_it_is_killed() {
    let Some(dir) = dir_of_child() else { return };
    let journal = open_ledger(&dir);
    let state = State::open(&dir.join("state"), &domain(), Arc::clone(&journal) as Arc<dyn Journal>).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        let view = state.view();
        let last = append(&*journal, [nth(view.applied(), &view)]);
        runtime.block_on(state.wait_applied(last)).unwrap();
    }
}

#[test]
fn child_that_dies_between_the_stores_write_and_its_flush() {
    let Some(dir) = dir_of_child() else { return };
    let journal = open_ledger(&dir);
    let (store, found) = Store::open(&dir.join("state"), &domain()).unwrap();
    let Found::Whole(mut view, _) = found else {
        panic!("its parent left a whole store")
    };
    let last = append(&*journal, (0..30).map(|n| record(1, token(n, "n2", 600))));
    while view.applied() <= last {
        for stored in journal.read_from(view.applied(), 7).unwrap() {
            let writes: std::collections::BTreeMap<_, _> = view.follow(&stored).unwrap().into_iter().collect();
            store.write(&writes, &view, *stored.leaf_hash().as_bytes()).unwrap();
        }
    }
    // SIGKILL: no destructor, no flush of sled's on the way out.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

#[test]
fn kill_minus_nine_at_any_moment_leaves_a_state_that_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    drop(new_ledger(dir.path(), "killed"));
    let mut sizes = Vec::new();
    for round in 0..u64::from(rounds(60)) {
        let mut child = child("tests::crash::child_that_appends_until_it_is_killed", dir.path());
        std::thread::sleep(Duration::from_millis(150 + round * 173 % 1_400));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        let journal = open_ledger(dir.path());
        let seen = State::seen(&dir.path().join("state")).unwrap();
        assert!(seen <= journal.size(), "a watermark is never ahead of what is durable");
        let state = State::open(
            &dir.path().join("state"),
            &domain(),
            Arc::clone(&journal) as Arc<dyn Journal>,
        )
        .unwrap();
        assert_eq!(state.view().digest(), truth(&*journal).digest(), "round {round}");
        sizes.push(journal.size());
    }
    assert!(sizes.last() > sizes.first(), "the children did something: {sizes:?}");
    assert!(
        !dir.path().join("state/sled.bad").exists(),
        "no kill may damage the store"
    );
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "unborn");
    append(&*journal, [record(1, put("web", "n1", 300, 0))]);
    let state = dir.path().join("state");
    std::fs::create_dir_all(state.join("sled")).unwrap();
    for file in ["conf", "db"] {
        std::fs::write(state.join("sled").join(file), b"half").unwrap();
    }
    let opened = State::open(&state, &domain(), Arc::clone(&journal) as Arc<dyn Journal>).unwrap();
    assert_eq!(opened.view().digest(), truth(&*journal).digest());
    assert!(!state.join("sled.bad").exists(), "there was nothing to keep");
}

#[test]
fn a_kill_between_the_stores_write_and_its_flush_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = new_ledger(dir.path(), "unflushed");
    append(&*journal, [record(1, put("web", "n1", 300, 0))]);
    drop(
        State::open(
            &dir.path().join("state"),
            &domain(),
            Arc::clone(&journal) as Arc<dyn Journal>,
        )
        .unwrap(),
    );
    drop(journal);
    let mut child = child(
        "tests::crash::child_that_dies_between_the_stores_write_and_its_flush",
        dir.path(),
    );
    assert!(!child.wait().unwrap().success());
    let journal = open_ledger(dir.path());
    assert_eq!(journal.size(), 32);
    assert_eq!(
        State::seen(&dir.path().join("state")).unwrap(),
        2,
        "what was not flushed was not claimed"
    );
    let state = State::open(
        &dir.path().join("state"),
        &domain(),
        Arc::clone(&journal) as Arc<dyn Journal>,
    )
    .unwrap();
    assert_eq!(state.view().token_count(), 30);
    assert_eq!(state.view().digest(), truth(&*journal).digest());
}
