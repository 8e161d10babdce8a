//! A witness's directory: who may read its key, what it remembers, and that nothing leaves before it is stored.

use std::os::unix::fs::PermissionsExt;

use mintage_ledger::{SignedNote, limits::FOLLOWED_LOGS_MAX};

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
        init(&place.dir(), "w1", None, Deps::system().random).unwrap_err(),
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
fn an_encrypted_key_opens_under_its_passphrase_alone() {
    let place = Place::new();
    let passphrase = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let own = passphrase("correct horse");
    let key = init(&place.dir(), "w1", Some(&own), Deps::system().random).unwrap();
    let text = std::fs::read_to_string(place.dir().join(KEY)).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{text}");
    let open = |passphrase| Store::open(&place.dir(), &place.policy(), passphrase);
    assert_eq!(open(Some(&own)).unwrap().key(), &key);
    let wrong = passphrase("incorrect horse");
    let told = open(Some(&wrong)).unwrap_err().to_string();
    assert!(told.contains("passphrase is wrong"), "{told}");
    let told = open(None).unwrap_err().to_string();
    assert!(told.contains("--passphrase-file"), "{told}");
    let clear = Place::new();
    clear.init("w1");
    let told = Store::open(&clear.dir(), &clear.policy(), Some(&own)).unwrap_err();
    assert!(told.to_string().contains("in clear"), "{told}");
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

/// The status of the answer to a statement.
fn followed(store: &Store, statement: &str) -> u16 {
    match store.follow(statement.as_bytes()) {
        Following::Followed(_) => 200,
        Following::Refused(verdict) => verdict.status(),
        Following::Unavailable(why) => panic!("{why}"),
    }
}

#[test]
fn the_log_that_a_followed_one_names_is_cosigned_from_nothing_on_and_after_a_restart() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let (first, second, third) = (Fork::new(1), Fork::later(2), Fork::later(3));
    assert!(refused(&store, &second.request(0, 5), 404));
    assert_eq!(
        followed(&store, &second.names(&third)),
        404,
        "nobody knows the second yet"
    );
    for _ in 0..2 {
        assert_eq!(followed(&store, &first.names(&second)), 200);
    }
    assert!(refused(&store, &second.request(3, 5), 409));
    assert!(cosigned_by(&store, &second.request(0, 5)));
    assert_eq!(followed(&store, &second.names(&third)), 200);
    assert!(cosigned_by(&store, &third.request(0, 2)) && cosigned_by(&store, &first.request(0, 9)));
    assert_eq!(store.logs(), 3);
    drop(store);
    let store = place.open().unwrap();
    assert_eq!(store.logs(), 3);
    assert!(
        refused(&store, &second.request(0, 7), 409),
        "what was cosigned is known"
    );
    assert!(cosigned_by(&store, &second.request(5, 7)) && cosigned_by(&store, &third.request(2, 4)));
    assert_eq!(followed(&store, &first.names(&second)), 200);
}

#[test]
fn a_log_has_one_successor_and_none_in_another_ledger() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let (first, second) = (Fork::new(1), Fork::later(2));
    let forged = Fork::named(first.origin(), 9).names(&second);
    assert_eq!(followed(&store, &forged), 403);
    for elsewhere in ["other.test/mintage/a1b2/2030-02", "dev.test/mintage/a1b3/2030-02"] {
        assert_eq!(
            followed(&store, &first.names(&Fork::named(elsewhere, 9))),
            422,
            "{elsewhere}"
        );
    }
    assert_eq!(followed(&store, &first.names(&first)), 422);
    // Its own key under another name: no two logs share one.
    let own_key = Fork::named("dev.test/mintage/a1b2/2030-02", 3);
    assert_eq!(followed(&store, &first.names(&own_key)), 422);
    for garbled in [
        "",
        "no note",
        &first.request(0, 5),
        &first.names(&second).replace(" v1", " v2"),
    ] {
        assert_eq!(followed(&store, garbled), 400, "{garbled:?}");
    }
    assert_eq!(store.logs(), 1);
    assert_eq!(followed(&store, &first.names(&second)), 200);
    let same_name = Fork::named(second.origin(), 9);
    for other in [Fork::later(3), same_name] {
        assert_eq!(followed(&store, &first.names(&other)), 409);
    }
    // Back to a log that is known, with its key: nothing new; with another: refused.
    assert_eq!(followed(&store, &second.names(&Fork::named(first.origin(), 9))), 422);
    assert_eq!(followed(&store, &second.names(&first)), 200);
    assert_eq!(store.logs(), 2);
    drop(store);
    assert_eq!(place.open().unwrap().logs(), 2);
}

#[test]
fn a_statement_that_is_damaged_on_disk_is_told_of_and_never_taken_for_none() {
    let place = Place::new();
    place.init("w1");
    let (first, second) = (Fork::new(1), Fork::later(2));
    assert_eq!(followed(&place.open().unwrap(), &first.names(&second)), 200);
    let path = place.dir().join(LOGS).join(next_file(first.origin()));
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        Fork::named(first.origin(), 9).names(&second),
        second.names(&Fork::later(3)),
        "a".repeat(5000),
    ] {
        std::fs::write(&path, &bad).unwrap();
        let told = place.open().unwrap_err().to_string();
        assert!(told.contains(&next_file(first.origin())), "{told}");
    }
    std::fs::write(&path, good).unwrap();
    assert_eq!(place.open().unwrap().logs(), 2);
}

#[test]
fn a_statement_that_could_not_be_stored_is_not_followed() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let logs = place.dir().join(LOGS);
    std::fs::remove_dir_all(&logs).unwrap();
    let answer = store.follow(Fork::new(1).names(&Fork::later(2)).as_bytes());
    assert!(matches!(answer, Following::Unavailable(why) if why.contains("could not be stored")));
    assert_eq!(store.logs(), 1);
    assert!(refused(&store, &Fork::later(2).request(0, 5), 404));
}

#[test]
fn only_so_many_logs_are_followed_from_one_that_is_listed() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let log = |number: usize| match number {
        0 => Fork::new(1),
        _ => Fork::numbered(number),
    };
    for number in 0..FOLLOWED_LOGS_MAX {
        assert_eq!(followed(&store, &log(number).names(&log(number + 1))), 200, "{number}");
    }
    let further = log(FOLLOWED_LOGS_MAX).names(&log(FOLLOWED_LOGS_MAX + 1));
    assert_eq!(followed(&store, &further), 422);
    // A later log in the policy file begins anew.
    let policy = format!(
        "log {}\nlog {}\nquorum none\n",
        log(0).vkey(),
        log(FOLLOWED_LOGS_MAX).vkey()
    );
    std::fs::write(place.policy(), policy).unwrap();
    assert_eq!(store.reload().unwrap(), FOLLOWED_LOGS_MAX + 1);
    assert_eq!(followed(&store, &further), 200);
}

#[test]
fn a_policy_is_read_again_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    place.init("w1");
    let store = place.open().unwrap();
    let (first, second, other) = (
        Fork::new(1),
        Fork::later(2),
        Fork::named("dev.test/mintage/c3/2030-01", 7),
    );
    assert_eq!(followed(&store, &first.names(&second)), 200);
    assert!(cosigned_by(&store, &first.request(0, 5)) && cosigned_by(&store, &second.request(0, 5)));
    let write = |text: String| std::fs::write(place.policy(), text).unwrap();
    write(format!("log {}\nlog x\nquorum none\n", other.vkey()));
    let told = store.reload().unwrap_err().to_string();
    assert!(told.contains("line 2"), "{told}");
    assert!(cosigned_by(&store, &first.request(5, 6)) && refused(&store, &other.request(0, 5), 404));
    write(format!("log {}\nquorum none\n", other.vkey()));
    assert_eq!(store.reload().unwrap(), 1);
    // What is listed no more is followed no more, and neither is what it has named.
    assert!(cosigned_by(&store, &other.request(0, 5)));
    assert!(refused(&store, &first.request(6, 7), 404) && refused(&store, &second.request(5, 7), 404));
    write(format!("log {}\nquorum none\n", first.vkey()));
    assert_eq!(store.reload().unwrap(), 2);
    assert!(cosigned_by(&store, &first.request(6, 7)) && cosigned_by(&store, &second.request(5, 7)));
}

fn cosigned_by(store: &Store, request: &str) -> bool {
    matches!(store.add(request.as_bytes(), NOW), Answer::Cosigned(_))
}

fn refused(store: &Store, request: &str, status: u16) -> bool {
    matches!(store.add(request.as_bytes(), NOW), Answer::Refused(verdict) if verdict.status() == status)
}
