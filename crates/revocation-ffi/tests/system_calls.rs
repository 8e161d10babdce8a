//! A warm question makes no system call: asked in a thread that may make none but read, write and exit (seccomp's strict mode), which
//! the kernel ends at any other.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fixture;
#[path = "../../../tests/src/kit/missing.rs"]
mod missing;

use std::{hint::black_box, io::Read, os::unix::net::UnixStream, process::Command, time::Duration};

use fixture::{Fixture, Names, SORTS, fixture, questions};
use mintage_revocation::{Decision, FreshnessPolicy, MapOwner, MapReader, Query, Verdict, View};
use missing::missing;
use rustix::thread::{SecureComputingMode, set_secure_computing_mode};

const NAME: &str = "a_warm_question_makes_no_system_call";
const CONFINED: &str = "ASK_IN_CONFINEMENT";
const QUESTIONS: usize = 12 * SORTS;

/// Every sort of question, alone and together; how many were answered with Revoked.
fn ask(view: &View, reader: &MapReader, queries: &[Query<'_>], fixture: &Fixture) -> usize {
    let policy = FreshnessPolicy::default();
    let (mut verdicts, mut decisions) = (
        [Verdict::Stale; QUESTIONS],
        [Decision::Refuse(Verdict::Stale); QUESTIONS],
    );
    for query in queries {
        black_box(view.check(query, fixture.now));
        black_box(view.decide(query, fixture.now, policy));
        black_box(reader.check(query, fixture.now));
    }
    view.check_batch(queries, fixture.now, &mut verdicts);
    view.decide_batch(queries, fixture.now, policy, &mut decisions);
    let revoked = verdicts
        .iter()
        .filter(|verdict| matches!(verdict, Verdict::Revoked { .. }));
    revoked.count()
}

#[test]
fn a_warm_question_makes_no_system_call() {
    if std::env::var_os(CONFINED).is_none() {
        // In a process of its own: the confined thread cannot even end in order.
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.args(["--exact", NAME]).env(CONFINED, "1").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        return;
    }
    let (mut told, tell) = UnixStream::pair().unwrap();
    told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    std::thread::spawn(move || confined(&tell));
    let mut answer = [0];
    told.read_exact(&mut answer).unwrap();
    match answer {
        RIGHT => std::process::exit(0),
        UNSUPPORTED => {
            missing::<()>("seccomp", "this kernel confines nobody");
        }
        _ => panic!("answered wrongly"),
    }
}

const RIGHT: [u8; 1] = [1];
const WRONG: [u8; 1] = [2];
const UNSUPPORTED: [u8; 1] = [3];

/// Does not return once it is confined: the thread is ended at the next call, whatever it is.
fn confined(tell: &UnixStream) {
    let fixture = fixture();
    let names = Names::new();
    let queries = questions(&fixture, &names, QUESTIONS);
    let reader = MapReader::open(&fixture.path(), &fixture.domain, MapOwner::RootOrSelf).unwrap();
    let mapped = reader.view(fixture.now);
    // The first questions may set up what stays.
    for view in [&mapped, &fixture.view] {
        ask(view, &reader, &queries, &fixture);
    }
    if set_secure_computing_mode(SecureComputingMode::Strict).is_err() {
        let _ = rustix::io::write(tell, &UNSUPPORTED);
        return;
    }
    let of_map = ask(&mapped, &reader, &queries, &fixture);
    let of_follower = ask(&fixture.view, &reader, &queries, &fixture);
    let is_right = (of_map, of_follower) == (QUESTIONS / 2, QUESTIONS / 2);
    let _ = rustix::io::write(tell, if is_right { &RIGHT } else { &WRONG });
}
