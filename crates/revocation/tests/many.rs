//! Many questions at once, and views that are held while serials are added.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_revocation::{RuleTarget, Verdict, View};
use publisher::{BY_SERIAL, Cert, FOREIGN, NATIVE, Publisher, START, STRANGER, id, seconds};

#[test]
fn many_questions_at_once_get_the_answers_of_single_ones() {
    let mut publisher = Publisher::new();
    let mut certs: Vec<Cert> = (0..500).map(Cert::new).collect();
    for (at, cert) in certs.iter_mut().enumerate() {
        cert.issuer = [NATIVE, NATIVE, FOREIGN, STRANGER][at % 4];
        cert.not_after = START.plus(seconds(600 + 7_000 * (at as u64 % 5)));
        cert.id = id(["spiffe://dev.test/web", "spiffe://dev.test/db"][at / 4 % 2]);
    }
    let struck = certs.iter().filter(|cert| cert.issuer != STRANGER).step_by(3);
    publisher.revoke(struck.map(Cert::revoked).collect(), Vec::new());
    let mut follower = publisher.current_follower();
    let compare = |view: &View, now, certs: &[Cert]| {
        let queries: Vec<_> = certs.iter().map(Cert::query).collect();
        let mut answers = vec![Verdict::Good; queries.len()];
        view.check_batch(&queries, now, &mut answers);
        let single: Vec<_> = queries.iter().map(|query| view.check(query, now)).collect();
        assert_eq!(answers, single);
        single
            .into_iter()
            .map(|verdict| format!("{verdict:?}"))
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    let now = publisher.now;
    assert_eq!(
        compare(&follower.view(), now, &certs),
        3,
        "good, revoked and not covered"
    );
    assert_eq!(
        compare(&follower.view(), now.plus(seconds(100)), &certs),
        3,
        "stale, revoked and not covered"
    );
    assert_eq!(compare(&View::none(), now, &certs), 1);
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/db")), None);
    publisher.bring_up(&mut follower);
    assert_eq!(compare(&follower.view(), now, &certs), 4, "by rule too");
    // What has no place for its answer gets none.
    let queries: Vec<_> = certs.iter().map(Cert::query).collect();
    let mut few = [Verdict::Stale; 3];
    follower.view().check_batch(&queries, now, &mut few);
    assert_ne!(few, [Verdict::Stale; 3]);
    follower.view().check_batch(&queries[..1], now, &mut few);
}

#[test]
fn a_view_that_is_held_strikes_what_was_added_since_and_forgets_nothing() {
    let mut publisher = Publisher::new();
    let old: Vec<Cert> = (0..200).map(Cert::new).collect();
    publisher.revoke(old.iter().map(Cert::revoked).collect(), Vec::new());
    let mut follower = publisher.current_follower();
    let held = follower.view();
    for seed in 1_000..1_400 {
        publisher.revoke_serial(&Cert::new(seed));
        publisher.bring_up(&mut follower);
    }
    let now = publisher.now;
    assert!(old.iter().all(|cert| held.check(&cert.query(), now) == BY_SERIAL));
    let new = follower.view();
    assert_eq!(new.serial_count(), 600);
    let all = old.iter().cloned().chain((1_000..1_400).map(Cert::new));
    assert!(all.into_iter().all(|cert| new.check(&cert.query(), now) == BY_SERIAL));
    assert_eq!(new.check(&Cert::new(5_000).query(), now), Verdict::Good);
}
