//! Group commit under racing submitters, and its answers when things go wrong.

use std::{
    sync::{Arc, Barrier, atomic::Ordering},
    thread,
    time::Duration,
};

use mintage_identity::RequestId;

use super::kit::{Fault, Faulty, Place, contents, group, issue, options};
use crate::{
    Body, CommitError, CommitTicket, Commits, Committer, CommitterLimits, EncodedRecord, FileJournal, Journal, Kind,
    Record, limits::GROUP_RECORDS_ENOUGH, samples,
};

fn start(journal: FileJournal) -> (Arc<FileJournal>, Committer, Commits) {
    let journal = Arc::new(journal);
    let (committer, commits) =
        Committer::start(Arc::clone(&journal) as Arc<dyn Journal>, CommitterLimits::default()).unwrap();
    (journal, committer, commits)
}

/// A record that says, in its own bytes, at which control index it was decided and by whom.
fn decided(kind: Kind, seed: u64, control_seen: u64) -> EncodedRecord {
    let mut record = samples::record_of(kind, seed);
    record.control_seen = control_seen;
    record.request_id = Some(RequestId::new(record.salt));
    record.encode().unwrap()
}

#[test]
fn sixty_four_racers_never_get_past_a_restriction_they_did_not_see() {
    const RACERS: u64 = 64;
    const EACH: u64 = 40;
    let place = Place::new();
    let (journal, committer, commits) = start(place.create(options()));
    let begin = Arc::new(Barrier::new(RACERS as usize));
    let racers: Vec<_> = (0..RACERS)
        .map(|racer| {
            let (journal, commits, begin) = (Arc::clone(&journal), commits.clone(), Arc::clone(&begin));
            thread::spawn(move || {
                begin.wait();
                (0..EACH)
                    .map(|turn| race(&journal, &commits, racer * EACH + turn))
                    .sum::<u64>()
            })
        })
        .collect();
    let moved: u64 = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
    committer.stop();
    let all = contents(&*journal);
    assert_eq!(all.len() as u64, 1 + RACERS * EACH * 2);
    let mut control = 0;
    let mut at = 1;
    while at < all.len() {
        // Both records of one submission are neighbours and were decided together.
        let pair: Vec<Record> = all[at..at + 2]
            .iter()
            .map(|bytes| Record::decode(bytes).unwrap())
            .collect();
        assert_eq!(pair[0].salt, pair[1].salt, "a submission is not torn apart");
        for record in &pair {
            assert!(
                record.control_seen >= control,
                "record {at}: {} < {control}",
                record.control_seen
            );
        }
        for (offset, record) in pair.iter().enumerate() {
            if record.is_restricting() {
                control = (at + offset) as u64 + 1;
            }
        }
        at += 2;
    }
    assert_eq!(journal.control_head(), control);
    let stats = commits.stats();
    assert_eq!((stats.records, stats.moved), (RACERS * EACH * 2, moved));
    assert!(moved > 0 && stats.groups < stats.records, "{stats:?}");
}

/// Submits one pair until it is committed; returns how many records were moved on the way.
fn race(journal: &FileJournal, commits: &Commits, seed: u64) -> u64 {
    let mut moved = 0;
    loop {
        let seen = journal.control_head();
        let kind = if seed.is_multiple_of(10) {
            Kind::AgentBan
        } else {
            Kind::Issue
        };
        let records = vec![
            (decided(kind, seed, seen), seen),
            (decided(Kind::Issue, seed, seen), seen),
        ];
        let hashes: Vec<_> = records.iter().map(|(record, _)| record.leaf_hash()).collect();
        let outcomes = commits.submit(records).wait();
        assert_eq!(outcomes.len(), 2);
        if outcomes.iter().all(Result::is_ok) {
            for (outcome, hash) in outcomes.iter().zip(hashes) {
                let receipt = outcome.as_ref().unwrap();
                let stored = journal.read_from(receipt.position(), 1).unwrap();
                assert_eq!(stored[0].leaf_hash(), hash);
                assert_eq!(receipt.leaf_hash(), hash);
                assert_eq!(receipt.origin(), journal.log().origin());
            }
            return moved;
        }
        for outcome in &outcomes {
            match outcome {
                Err(CommitError::Moved { control_head }) => assert!(*control_head > seen),
                other => panic!("{other:?}"),
            }
        }
        moved += 2;
    }
}

#[test]
fn one_stale_record_does_not_hold_up_its_neighbours() {
    let place = Place::new();
    let (journal, _committer, commits) = start(place.create(options()));
    commits.submit(vec![(decided(Kind::Revoke, 1, 0), 0)]).wait()[0]
        .as_ref()
        .unwrap();
    let outcomes = commits
        .submit(vec![(issue(2), 0), (issue(3), 2), (issue(4), 1), (issue(5), 2)])
        .wait();
    let moved = Err(CommitError::Moved { control_head: 2 });
    assert_eq!(outcomes[0], moved);
    assert_eq!(outcomes[2], moved);
    assert_eq!(
        (
            outcomes[1].as_ref().unwrap().position(),
            outcomes[3].as_ref().unwrap().position()
        ),
        (2, 3)
    );
    assert_eq!(journal.size(), 4);
}

#[test]
fn parts_of_one_revocation_do_not_move_one_another() {
    let place = Place::new();
    let (journal, _committer, commits) = start(place.create(options()));
    let parts = (0..5).map(|part| (decided(Kind::Revoke, part, 0), 0)).collect();
    assert!(commits.submit(parts).wait().iter().all(Result::is_ok));
    assert_eq!(journal.control_head(), 6);
}

#[test]
fn too_much_is_answered_busy_and_nothing_after_the_end() {
    let place = Place::new();
    let journal: Arc<dyn Journal> = Arc::new(place.create(options()));
    let limits = CommitterLimits {
        queue_records: 600,
        ..CommitterLimits::default()
    };
    let (committer, commits) = Committer::start(Arc::clone(&journal), limits).unwrap();
    let seen = |records: Vec<EncodedRecord>| records.into_iter().map(|record| (record, 0)).collect::<Vec<_>>();
    let outcomes = commits.submit(seen(group(0, 513))).wait();
    assert!(outcomes.len() == 513 && outcomes.iter().all(|outcome| *outcome == Err(CommitError::Busy)));
    assert!(commits.submit(Vec::new()).wait().is_empty());
    let tickets: Vec<_> = (0..8).map(|_| commits.submit(seen(group(0, 500)))).collect();
    let outcomes: Vec<_> = tickets.into_iter().map(crate::CommitTicket::wait).collect();
    let committed = outcomes.iter().filter(|outcomes| outcomes[0].is_ok()).count();
    assert!(committed >= 1);
    assert!(
        outcomes
            .iter()
            .flatten()
            .all(|outcome| matches!(outcome, Ok(_) | Err(CommitError::Busy)))
    );
    assert_eq!(journal.size(), 1 + 500 * committed as u64);
    committer.stop();
    assert_eq!(commits.submit(seen(group(0, 2))).wait()[1], Err(CommitError::Closed));
    assert_eq!(commits.waiting(), 0);
}

#[test]
fn a_stop_commits_what_waits() {
    let place = Place::new();
    let (journal, committer, commits) = start(place.create(options()));
    let tickets: Vec<_> = (0..50)
        .map(|i| commits.submit(vec![(issue(i), 0), (issue(i + 100), 0)]))
        .collect();
    committer.stop();
    assert!(
        tickets
            .into_iter()
            .all(|ticket| ticket.wait().iter().all(Result::is_ok))
    );
    assert_eq!(journal.size(), 101);
}

#[test]
fn waiters_learn_of_a_full_disk_and_of_a_poisoned_one() {
    let (place, disk) = (Place::new(), Faulty::new());
    let (journal, _committer, commits) = start(place.create(disk.options()));
    // Larger than what is reserved, so that space must be made first.
    let large = |from| (from..from + 10).map(|i| (issue(i), 0)).collect::<Vec<_>>();
    assert!(commits.submit(vec![(issue(1), 0)]).wait()[0].is_ok());
    while !fill(&commits, &disk) {}
    let size = journal.size();
    assert_eq!(journal.poisoned(), None);
    let outcomes = commits.submit(large(20)).wait();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(journal.size(), size + 10);

    // The flush of a group: the fate of these records is unknown.
    let calls = disk.0.calls.load(Ordering::SeqCst);
    (calls + 1..calls + 20).for_each(|call| disk.0.fail_at(call, Fault::Lost));
    disk.0.fail_next(Fault::Lost);
    let outcomes = loop {
        let outcomes = commits.submit(large(40)).wait();
        if outcomes[0].is_err() {
            break outcomes;
        }
        disk.0.fail_next(Fault::Lost);
    };
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Err(CommitError::Poisoned(_))))
    );
    assert!(matches!(
        &commits.submit(large(60)).wait()[9],
        Err(CommitError::Poisoned(_))
    ));
    assert!(journal.poisoned().is_some());
    assert!(!contents(&*journal).is_empty(), "reads go on");
}

/// Submits with a full disk at the next call; true when the waiters heard of it.
fn fill(commits: &Commits, disk: &Faulty) -> bool {
    disk.0.fail_next(Fault::Full);
    let outcomes = commits.submit((0..10).map(|i| (issue(i), 0)).collect()).wait();
    match &outcomes[0] {
        Err(CommitError::NoSpace) => outcomes.iter().all(|outcome| *outcome == Err(CommitError::NoSpace)),
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

#[test]
fn an_awaited_ticket_gives_the_same_answer() {
    let place = Place::new();
    let (_journal, _committer, commits) = start(place.create(options()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcomes = runtime.block_on(commits.submit(vec![(issue(1), 0)]).outcomes());
    let receipt = outcomes[0].as_ref().unwrap();
    assert_eq!(receipt.position(), 1);
    assert!(matches!(Record::decode(issue(1).bytes()).unwrap().body, Body::Issue(_)));
    assert_eq!(receipt.time(), issue(1).time());
}

/// A committer that keeps groups open this long.
fn patient(place: &Place, group_wait: Duration) -> (Committer, Commits) {
    let limits = CommitterLimits {
        group_wait,
        ..CommitterLimits::default()
    };
    Committer::start(Arc::new(place.create(options())), limits).unwrap()
}

fn submit(commits: &Commits, seed: u64) -> CommitTicket {
    commits.submit(vec![(decided(Kind::Issue, seed, u64::MAX), u64::MAX)])
}

#[test]
fn a_group_is_kept_open_for_what_was_announced() {
    const FOR_EVER: Duration = Duration::from_secs(600);
    let place = Place::new();
    let (committer, commits) = patient(&place, FOR_EVER);
    let announced = [commits.more_to_come(), commits.more_to_come()];
    let tickets = [1, 2].map(|seed| submit(&commits, seed));
    // The last turn has come: whoever waits goes on at once, and in one group.
    drop(announced);
    for ticket in tickets {
        assert!(ticket.wait()[0].is_ok());
    }
    assert_eq!(commits.stats().groups, 1);
    // With nothing announced, each is committed as it comes.
    for seed in [3, 4] {
        assert!(submit(&commits, seed).wait()[0].is_ok());
    }
    assert_eq!(commits.stats().groups, 3);
    // Enough for a group does not wait for more, and a stop does not either.
    let _never = commits.more_to_come();
    let enough = (0..GROUP_RECORDS_ENOUGH as u64).map(|seed| (decided(Kind::Issue, 5 + seed, u64::MAX), u64::MAX));
    assert!(commits.submit(enough.collect()).wait().iter().all(Result::is_ok));
    let last = submit(&commits, 4096);
    committer.stop();
    assert!(last.wait()[0].is_ok());
}

#[test]
fn an_announcement_that_never_comes_true_delays_a_group_and_no_more() {
    let place = Place::new();
    let (committer, commits) = patient(&place, Duration::from_millis(1));
    let _never = commits.more_to_come();
    assert!(submit(&commits, 1).wait()[0].is_ok());
    committer.stop();
}
