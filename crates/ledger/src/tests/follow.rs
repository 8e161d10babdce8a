//! Followers: the tree and its checkpoints, a second follower, damaged tiles, sinks that fail for a while.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::kit::{Place, group, keys, options, trees};
use crate::{
    FileJournal, Follower, Hold, Integrator, Journal, LedgerError, Sink, Stored, Tree, Trees, leaf_hash,
    verify_inclusion,
};

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn integrate(journal: &Arc<FileJournal>, sign: bool, every: Duration) -> (Follower, Arc<Tree>) {
    let trees = trees(journal);
    let (_, tree) = trees.growing();
    let journal = Arc::clone(journal) as Arc<dyn Journal>;
    let integrator = Integrator::new(Arc::clone(&journal), trees, sign.then(keys), every).unwrap();
    let follower = Follower::start("tree", journal, vec![Box::new(integrator)], Duration::ZERO).unwrap();
    (follower, tree)
}

fn fill(journal: &FileJournal, to: u64) {
    while journal.size() < to {
        let next = journal.size();
        journal.append(&group(next, (next + 100).min(to)), 0).unwrap();
    }
}

#[test]
fn the_tree_follows_is_signed_and_proves_every_record() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let (follower, tree) = integrate(&journal, true, Duration::from_millis(20));
    fill(&journal, 700);
    wait_for("a checkpoint", || {
        journal.checkpoint().unwrap().checkpoint().size == 700
    });
    let signed = journal.checkpoint().unwrap().checkpoint().clone();
    for index in [0, 1, 255, 256, 699] {
        let leaf = journal.read_from(index, 1).unwrap()[0].leaf_hash();
        let path = tree.inclusion(index, &leaf, 700, &signed.root).unwrap();
        verify_inclusion(&leaf, index, 700, &path, &signed.root).unwrap();
    }
    assert_eq!((follower.applied(), follower.trouble()), (700, None));
    follower.stop();
    // A second follower over the same journal, from the records alone.
    let other = Tree::new(&place.ledger().join("other"), Arc::new(crate::LocalDisk));
    for stored in (0..700).flat_map(|i| journal.read_from(i, 1).unwrap()) {
        other.push(leaf_hash(stored.bytes())).unwrap();
    }
    assert_eq!(other.root().unwrap(), signed.root);
}

#[test]
fn a_checkpoint_that_is_held_is_not_replaced_until_it_is_let_go_or_the_log_stops() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let hold = Hold::default();
    let shared = Arc::clone(&journal) as Arc<dyn Journal>;
    let integrator = Integrator::new(shared, trees(&journal), Some(keys()), Duration::ZERO).unwrap();
    let mut integrator = integrator.waiting_for(hold.clone());
    let mut step = |to: u64| {
        fill(&journal, to);
        let records = journal.read_from(integrator.next(), 512).unwrap();
        integrator.apply(records[0].index(), &records).unwrap();
        let again = integrator.caught_up().unwrap();
        (journal.checkpoint().unwrap().checkpoint().size, again.is_some())
    };
    assert_eq!(step(10), (10, false));
    let (one, other) = (hold.begin(), hold.begin());
    assert_eq!(step(20), (10, true), "it is looked at again soon");
    drop(one);
    assert_eq!(step(30), (10, true), "one of two still asks");
    drop(other);
    assert_eq!(step(40), (40, false));
    let _held = hold.begin();
    assert_eq!(step(50), (40, true));
    integrator.finish().unwrap();
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 50);
}

#[test]
fn checkpoints_are_no_more_frequent_than_asked_and_one_is_signed_at_the_stop() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let (follower, _tree) = integrate(&journal, true, Duration::from_secs(3600));
    fill(&journal, 300);
    wait_for("the tree", || follower.applied() == 300);
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 1);
    follower.stop();
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 300);
    drop(journal);
    let journal = place.open().unwrap();
    assert_eq!(journal.recovered().checkpoint_size, 300);
    // Without a key nothing is signed.
    let journal = Arc::new(journal);
    let (follower, _tree) = integrate(&journal, false, Duration::ZERO);
    fill(&journal, 400);
    follower.stop();
    assert_eq!(journal.checkpoint().unwrap().checkpoint().size, 300);
}

#[test]
fn a_restart_goes_on_from_the_tiles_or_makes_them_again() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let (follower, tree) = integrate(&journal, true, Duration::from_secs(3600));
    fill(&journal, 1000);
    follower.stop();
    let root = tree.root().unwrap();
    drop((journal, tree));
    let tile = place.shard().join("seg/00000000.tiles");
    let whole = fs::read(&tile).unwrap();
    let mut flipped = whole.clone();
    flipped[8192 + 77] ^= 4;
    for (damage, content) in [
        ("none", Some(whole.clone())),
        ("flipped", Some(flipped)),
        ("short", Some(whole[..100].to_vec())),
        ("empty", Some(Vec::new())),
        ("missing", None),
    ] {
        match &content {
            Some(content) => fs::write(&tile, content).unwrap(),
            None => fs::remove_file(&tile).unwrap(),
        }
        let journal = Arc::new(place.open().unwrap());
        let (follower, tree) = integrate(&journal, true, Duration::ZERO);
        // A tree out of damaged tiles has the size for the moment until its root is compared.
        let is_right = || tree.size() == 1000 && tree.root().is_ok_and(|found| found == root);
        wait_for(damage, || is_right() || follower.trouble().is_some());
        assert_eq!(follower.trouble(), None, "{damage}");
        follower.stop();
        assert_eq!(fs::read(&tile).unwrap(), whole, "{damage}");
    }
}

#[test]
fn a_log_that_is_not_the_signed_one_stops_the_tree() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    let (follower, _tree) = integrate(&journal, true, Duration::ZERO);
    fill(&journal, 10);
    wait_for("a checkpoint", || journal.checkpoint().unwrap().checkpoint().size == 10);
    follower.stop();
    let mut other = Integrator::new(
        Arc::clone(&journal) as Arc<dyn Journal>,
        Trees::new(&place.ledger().join("other"), journal.clone(), journal.disk().clone()),
        Some(keys()),
        Duration::ZERO,
    )
    .unwrap();
    let mut records = journal.read_from(0, 10).unwrap();
    records.swap(3, 4);
    assert!(matches!(
        other.apply(0, &records),
        Err(LedgerError::Forked { size: 10, .. })
    ));
}

/// Counts, refuses once in a while, and begins at its own place.
struct Counter {
    next: u64,
    seen: Arc<Mutex<Vec<u64>>>,
    refuse: u64,
}

impl Sink for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn apply(&mut self, first: u64, records: &[Stored]) -> Result<(), LedgerError> {
        assert_eq!(first, self.next);
        assert_eq!(records[0].index(), first);
        if self.refuse > 0 {
            self.refuse -= 1;
            // A part is done, the rest is asked for again.
            self.seen.lock().unwrap().push(first);
            self.next += 1;
            return Err(LedgerError::NoSpace);
        }
        self.seen.lock().unwrap().extend(records.iter().map(Stored::index));
        self.next += records.len() as u64;
        Ok(())
    }
}

#[test]
fn each_sink_gets_every_record_once_even_after_errors() {
    let place = Place::new();
    let journal = Arc::new(place.create(options()));
    fill(&journal, 50);
    let (one, two) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let sinks: Vec<Box<dyn Sink>> = vec![
        Box::new(Counter {
            next: 0,
            seen: Arc::clone(&one),
            refuse: 2,
        }),
        Box::new(Counter {
            next: 30,
            seen: Arc::clone(&two),
            refuse: 0,
        }),
    ];
    let follower = Follower::start(
        "count",
        Arc::clone(&journal) as Arc<dyn Journal>,
        sinks,
        Duration::from_millis(1),
    )
    .unwrap();
    wait_for("trouble", || follower.trouble().is_some());
    fill(&journal, 2000);
    wait_for("all", || follower.applied() == 2000);
    wait_for("no trouble", || follower.trouble().is_none());
    fill(&journal, 2500);
    follower.stop();
    assert_eq!(*one.lock().unwrap(), (0..2500).collect::<Vec<_>>());
    assert_eq!(*two.lock().unwrap(), (30..2500).collect::<Vec<_>>());
}
