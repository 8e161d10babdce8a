//! A witness's directory: who may read its key, what it remembers, and that nothing leaves before it is stored.

use std::os::unix::fs::PermissionsExt;

use mintage_ledger::Vkey;

use super::*;
use crate::{
    Deps,
    witness::kit::{Fork, NOW, Place},
};

#[test]
fn a_witness_is_made_once_and_its_key_is_for_its_user_alone() {
    let place = Place::new();
    check_init(&place.dir(), "w1").unwrap();
    assert!(!place.dir().exists(), "a rehearsal makes nothing");
    let key = place.init("w1");
    assert_eq!(key.name(), "w1");
    let path = place.dir().join(KEY);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    for refused in [
        check_init(&place.dir(), "w1").unwrap_err(),
        init(&place.dir(), "w1", Deps::system().random).unwrap_err(),
    ] {
        assert!(refused.to_string().contains("never over what is there"), "{refused}");
    }
    for name in ["", "a b", "a+b", &"w".repeat(WITNESS_NAME_BYTES_MAX + 1)] {
        assert!(check_init(&place.dir().join("new"), name).is_err(), "{name:?}");
    }
    assert_eq!(place.open().unwrap().key(), &key);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let refused = place.open().unwrap_err().to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
    std::fs::remove_file(place.dir().join(VKEY)).unwrap();
    let refused = place.open().unwrap_err().to_string();
    assert!(refused.contains("witness init"), "{refused}");
}

#[test]
fn what_was_cosigned_is_known_after_a_restart() {
    let place = Place::new();
    let key = place.init("w1");
    let ours = Fork::new(1);
    let store = place.open().unwrap();
    assert!(place.open().is_err(), "one process at a time");
    let Answer::Cosigned(line) = store.add(ours.request(0, 5).as_bytes(), NOW) else {
        panic!("not cosigned")
    };
    let note = SignedNote::parse(format!("{}\n{line}", ours.text(5)).as_bytes()).unwrap();
    assert_eq!(key.time_on(&note).unwrap(), Some(NOW));
    drop(store);
    let store = place.open().unwrap();
    assert!(refused(&store, &Fork::new(2).request(5, 9), 422));
    assert!(refused(&store, &ours.request(0, 9), 409));
    assert!(cosigned_by(&store, &ours.request(5, 9)) && cosigned_by(&store, &ours.request(9, 9)));
    let served = store.checkpoint(&file_of(ours.origin())).unwrap();
    let served = SignedNote::parse(served.as_bytes()).unwrap();
    served.verify(&ours.vkey()).unwrap();
    assert!(key.time_on(&served).unwrap().is_some());
    assert_eq!(store.checkpoint(&file_of("another")), None);
}

#[test]
fn a_damaged_checkpoint_is_never_taken_for_none() {
    let place = Place::new();
    place.init("w1");
    let ours = Fork::new(1);
    assert!(cosigned_by(&place.open().unwrap(), &ours.request(0, 5)));
    let path = place.dir().join(LOGS).join(file_of(ours.origin()));
    let good = std::fs::read_to_string(&path).unwrap();
    let unsigned: String = good
        .lines()
        .filter(|line| !line.contains(" w1 "))
        .map(|line| format!("{line}\n"))
        .collect();
    for bad in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("\n5\n", "\n4\n"),
        unsigned,
    ] {
        std::fs::write(&path, &bad).unwrap();
        assert!(place.open().is_err(), "{bad:?}");
    }
    std::fs::write(&path, good).unwrap();
    place.open().unwrap();
}

#[test]
fn nothing_leaves_that_could_not_be_stored_and_nothing_more_until_the_next_start() {
    let place = Place::new();
    place.init("w1");
    let ours = Fork::new(1);
    let store = place.open().unwrap();
    assert!(cosigned_by(&store, &ours.request(0, 5)));
    let logs = place.dir().join(LOGS);
    let stored = std::fs::read(logs.join(file_of(ours.origin()))).unwrap();
    std::fs::remove_dir_all(&logs).unwrap();
    for _ in 0..2 {
        let answer = store.add(ours.request(5, 9).as_bytes(), NOW);
        assert!(matches!(answer, Answer::Unavailable(why) if why.contains("start the witness again")));
    }
    assert!(cosigned_by(&store, &ours.request(5, 5)), "that is stored");
    drop(store);
    std::fs::create_dir(&logs).unwrap();
    std::fs::write(logs.join(file_of(ours.origin())), stored).unwrap();
    std::fs::set_permissions(logs.join(file_of(ours.origin())), PermissionsExt::from_mode(0o600)).unwrap();
    assert!(cosigned_by(&place.open().unwrap(), &ours.request(5, 9)));
}

#[test]
fn of_two_trees_that_come_at_once_one_is_cosigned() {
    for round in 0..8 {
        let place = Place::new();
        place.init("w1");
        let store = place.open().unwrap();
        let requests = [1, 2].map(|seed| Fork::new(seed).request(0, 5 + round));
        let answers = std::thread::scope(|scope| {
            let threads = requests
                .each_ref()
                .map(|request| scope.spawn(|| cosigned_by(&store, request)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(answers.iter().filter(|cosigned| **cosigned).count(), 1, "{round}");
    }
}

#[test]
fn a_policy_without_a_log_and_one_that_is_none_are_refused() {
    let place = Place::new();
    place.init("w1");
    for (text, word) in [("quorum none\n", "no log"), ("log x\nquorum none\n", "line 1")] {
        std::fs::write(place.policy(), text).unwrap();
        let told = place.open().unwrap_err().to_string();
        assert!(told.contains(word), "{told}");
    }
    let other = Vkey::new("example.com/other", [7; 32]).unwrap();
    std::fs::write(place.policy(), format!("log {other}\nquorum none\n")).unwrap();
    let store = place.open().unwrap();
    assert!(refused(&store, &Fork::new(1).request(0, 5), 404));
    assert!(refused(&store, "no request", 400));
}

#[test]
fn a_clock_before_the_epoch_cosigns_nothing() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let answer = store.add(Fork::new(1).request(0, 5).as_bytes(), UnixTime::from_seconds(0));
    assert!(matches!(answer, Answer::Unavailable(_)));
    assert_eq!(store.checkpoint(&file_of(Fork::new(1).origin())), None);
}

fn cosigned_by(store: &Store, request: &str) -> bool {
    matches!(store.add(request.as_bytes(), NOW), Answer::Cosigned(_))
}

fn refused(store: &Store, request: &str, status: u16) -> bool {
    matches!(store.add(request.as_bytes(), NOW), Answer::Refused(verdict) if verdict.status() == status)
}
