//! A revocation filter that is corrupt, of another trust domain, old, dated in the future, with a length of 4 GB or cut
//! short is refused; the last good one is kept and grows old.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_identity::{TrustDomain, UnixTime};
use mintage_revocation::{
    Beat, Decision, Delegation, DelegationStatement, FreshnessPolicy, Replica, RevocationError, RevocationKey,
    RevokedSet, RuleTarget, Terms, Verdict, View, Why,
};
use publisher::{BY_SERIAL, CaKey, Cert, Publisher, START, domain, id, seconds, twin};

/// Serials, rules, exceptions and two issuers, so that every table of the format is there.
fn full() -> (Publisher, Cert, Cert) {
    let mut publisher = Publisher::new();
    let (revoked, good) = (Cert::new(1), Cert::new(2));
    publisher.revoke_serial(&revoked);
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/other")), Some(START));
    let twin = Cert {
        serial: twin(&revoked.serial, 1),
        ..revoked.clone()
    };
    publisher.exceptions = vec![mintage_revocation::Exception {
        issuer: twin.issuer,
        serial: twin.serial,
    }];
    assert_eq!(twin.check(&publisher.current_follower().view(), START), Verdict::Good);
    (publisher, revoked, good)
}

/// Asserts that `bytes` are refused by all three doors and that nothing the follower holds has changed.
fn refused(replica: &mut Replica, bytes: &[u8], now: UnixTime, what: &str) {
    let (position, view) = (replica.position(), replica.view());
    assert!(replica.apply_snapshot(bytes, now).is_err(), "snapshot: {what}");
    assert!(replica.apply_delta(bytes, now).is_err(), "delta: {what}");
    assert!(replica.heartbeat(bytes, now).is_err(), "heartbeat: {what}");
    assert!(replica.restore_snapshot(bytes, now).is_err(), "saved snapshot: {what}");
    assert!(replica.restore_delta(bytes, now).is_err(), "saved delta: {what}");
    assert_eq!(replica.position(), position, "{what}");
    assert!(std::sync::Arc::ptr_eq(&replica.view(), &view), "{what}");
}

#[test]
fn every_flipped_bit_is_refused() {
    let (mut publisher, revoked, good) = full();
    let mut replica = publisher.current_follower();
    publisher.revoke_serial(&Cert::new(3));
    let objects = [
        publisher.snapshot(),
        publisher.delta(replica.position().unwrap().sequence),
        publisher.heartbeat(),
    ];
    for object in &objects {
        for at in 0..object.len() {
            let mut bad = object.clone();
            bad[at] ^= 1 << (at % 8);
            refused(&mut replica, &bad, START, &format!("octet {at} of {}", object.len()));
        }
    }
    assert_eq!(revoked.check(&replica.view(), START), BY_SERIAL);
    assert_eq!(good.check(&replica.view(), START), Verdict::Good);
    replica.apply_delta(&objects[1], START).unwrap();
}

#[test]
fn what_is_cut_short_or_longer_is_refused_at_every_offset() {
    let (publisher, ..) = full();
    let mut replica = publisher.current_follower();
    for object in [publisher.snapshot(), publisher.delta(2), publisher.heartbeat()] {
        for len in 0..object.len() {
            refused(&mut replica, &object[..len], START, &format!("cut to {len}"));
        }
        refused(&mut replica, &[&object[..], &[0; 8]].concat(), START, "longer");
    }
}

#[test]
fn a_length_of_four_gigabytes_is_refused_before_anything_is_allocated() {
    let (publisher, ..) = full();
    let mut replica = publisher.current_follower();
    for length in [4_u64 << 30, u64::MAX, u64::from(u32::MAX), 0] {
        let mut bad = publisher.snapshot();
        bad[200..208].copy_from_slice(&length.to_le_bytes());
        refused(&mut replica, &bad, START, &format!("length {length}"));
        assert!(matches!(
            replica.apply_snapshot(&bad, START),
            Err(RevocationError::Malformed { .. })
        ));
    }
}

#[test]
fn another_trust_domain_is_refused() {
    let (publisher, ..) = full();
    let mut replica = publisher.current_follower();
    let elsewhere = RevokedSet::new(&TrustDomain::parse("other.test").unwrap());
    // The key is the trusted one: only the name differs.
    let snapshot = publisher
        .key
        .sign_snapshot(&elsewhere, &[], &publisher.terms())
        .unwrap();
    refused(&mut replica, &snapshot, START, "snapshot of another domain");
    assert!(matches!(
        replica.apply_snapshot(&snapshot, START),
        Err(RevocationError::WrongTrustDomain)
    ));
    let mut foreign = Replica::new(&TrustDomain::parse("other.test").unwrap());
    assert!(matches!(
        foreign.trust(publisher.delegation()),
        Err(RevocationError::WrongTrustDomain)
    ));
}

#[test]
fn a_rollback_is_refused() {
    let (mut publisher, ..) = full();
    let old = [publisher.snapshot(), publisher.delta(2)];
    publisher.revoke_serial(&Cert::new(3));
    let mut replica = publisher.current_follower();
    for bytes in &old {
        refused(&mut replica, bytes, START, "older");
    }
    assert!(matches!(
        replica.apply_snapshot(&old[0], START),
        Err(RevocationError::Rollback { .. })
    ));
    assert!(matches!(
        replica.apply_delta(&old[1], START),
        Err(RevocationError::Rollback { .. })
    ));
    assert_eq!(Cert::new(3).check(&replica.view(), START), BY_SERIAL);
    // The one held is no rollback.
    assert!(
        replica
            .apply_snapshot(&publisher.snapshot(), START)
            .unwrap()
            .added
            .is_empty()
    );
}

#[test]
fn another_set_under_the_same_sequence_is_refused() {
    let (publisher, ..) = full();
    let mut replica = publisher.current_follower();
    let mut fork = Publisher {
        key: publisher.key,
        epoch: 1,
        ..Publisher::new()
    };
    fork.revoke_serial(&Cert::new(8));
    fork.revoke_serial(&Cert::new(9));
    assert_eq!(fork.set.sequence(), publisher.set.sequence());
    refused(&mut replica, &fork.snapshot(), START, "forked snapshot");
    refused(&mut replica, &fork.heartbeat(), START, "forked heartbeat");
    let base = fork.set.sequence();
    fork.revoke_serial(&Cert::new(10));
    let error = replica.apply_delta(&fork.delta(base), START).unwrap_err();
    assert!(matches!(error, RevocationError::BrokenChain { .. }), "{error}");
}

#[test]
fn a_gap_in_the_chain_is_refused() {
    let (mut publisher, ..) = full();
    let mut replica = publisher.current_follower();
    publisher.revoke_serial(&Cert::new(3));
    let middle = publisher.set.sequence();
    publisher.revoke_serial(&Cert::new(4));
    let error = replica.apply_delta(&publisher.delta(middle), START).unwrap_err();
    assert!(matches!(error, RevocationError::BrokenChain { .. }), "{error}");
    assert_eq!(
        replica.heartbeat(&publisher.heartbeat(), START).unwrap(),
        Beat::Behind {
            have: middle - 10,
            want: middle + 10
        }
    );
    let error = publisher
        .follower()
        .apply_delta(&publisher.delta(2), START)
        .unwrap_err();
    assert!(
        matches!(error, RevocationError::BrokenChain { held_sequence: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_future_date_is_refused_and_a_small_skew_is_not() {
    let (mut publisher, ..) = full();
    let mut replica = publisher.current_follower();
    publisher.now = START.plus(seconds(61));
    for object in [publisher.snapshot(), publisher.delta(2), publisher.heartbeat()] {
        refused(&mut replica, &object, START, "dated ahead");
    }
    assert!(matches!(
        replica.heartbeat(&publisher.heartbeat(), START),
        Err(RevocationError::FutureDate { seconds_ahead: 61 })
    ));
    publisher.now = START.plus(seconds(60));
    assert_eq!(replica.heartbeat(&publisher.heartbeat(), START).unwrap(), Beat::Current);
    // A skewed date does not make the filter fresher than now.
    assert_eq!(replica.view().last_heartbeat(), Some(START));
}

#[test]
fn an_ended_object_is_refused_but_the_saved_one_is_restored_as_old_as_it_is() {
    let (publisher, revoked, good) = full();
    let later = START.plus(seconds(3_601));
    let mut replica = publisher.follower();
    let snapshot = publisher.snapshot();
    assert!(matches!(
        replica.apply_snapshot(&snapshot, later),
        Err(RevocationError::Expired { seconds_ago: 1 })
    ));
    replica.restore_snapshot(&snapshot, later).unwrap();
    let good = Cert {
        not_after: later.plus(seconds(60)),
        ..good
    };
    assert_eq!(revoked.check(&replica.view(), later), BY_SERIAL);
    assert_eq!(good.check(&replica.view(), later), Verdict::Stale);
    let decide = |policy| replica.view().decide(&good.query(), later, policy);
    assert_eq!(decide(FreshnessPolicy::default()), Decision::Refuse(Verdict::Stale));
    assert_eq!(decide(FreshnessPolicy::Open), Decision::Accept { tolerated: true });
    assert!(replica.heartbeat(&publisher.heartbeat(), later).is_err());
}

#[test]
fn only_delegated_keys_may_speak_and_only_until_the_delegation_ends() {
    let (publisher, ..) = full();
    let mut untrusting = Replica::new(&domain());
    let error = untrusting.apply_snapshot(&publisher.snapshot(), START).unwrap_err();
    assert!(matches!(error, RevocationError::UnknownKey { .. }), "{error}");

    let mut replica = Replica::new(&domain());
    replica
        .trust(publisher.ca.delegate(&publisher.key, 1, START.plus(seconds(10))))
        .unwrap();
    replica
        .apply_snapshot(&publisher.snapshot(), START.plus(seconds(10)))
        .unwrap();
    let error = replica
        .heartbeat(&publisher.heartbeat(), START.plus(seconds(12)))
        .unwrap_err();
    assert!(
        matches!(error, RevocationError::DelegationExpired { seconds_ago: 2 }),
        "{error}"
    );
    // Another bundle may still hold the shorter statement: the longer one stays.
    replica.trust(publisher.delegation()).unwrap();
    replica
        .trust(publisher.ca.delegate(&publisher.key, 1, START.plus(seconds(10))))
        .unwrap();
    assert_eq!(
        replica
            .heartbeat(&publisher.heartbeat(), START.plus(seconds(12)))
            .unwrap(),
        Beat::Current
    );
}

#[test]
fn a_delegation_is_refused_unless_the_ca_key_it_names_made_it() {
    let (ca, other) = (CaKey::generate(), CaKey::generate());
    let (key, _) = RevocationKey::generate().unwrap();
    let statement = || DelegationStatement::new(&domain(), key.public_key(), 1, START, ca.id());
    let good = ca.sign(statement()).encode();
    let verify = |bytes: &[u8], spki: &[u8]| Delegation::decode(bytes)?.verify(&domain(), spki, START);
    verify(&good, &ca.spki).unwrap();
    assert!(verify(&good, &other.spki).is_err(), "another CA key");
    assert!(
        verify(&other.sign(statement()).encode(), &ca.spki).is_err(),
        "signed by another"
    );
    assert!(verify(&good, &ca.spki[..90]).is_err(), "cut SubjectPublicKeyInfo");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(verify(&bad, &ca.spki).is_err(), "octet {at}");
        assert!(verify(&good[..at], &ca.spki).is_err(), "cut to {at}");
    }
    assert!(verify(&[&good[..], &[0; 512]].concat(), &ca.spki).is_err(), "longer");
    let late = Delegation::decode(&good)
        .unwrap()
        .verify(&domain(), &ca.spki, START.plus(seconds(1)));
    assert!(matches!(late, Err(RevocationError::DelegationExpired { .. })));
    let elsewhere = TrustDomain::parse("other.test").unwrap();
    let elsewhere = Delegation::decode(&good).unwrap().verify(&elsewhere, &ca.spki, START);
    assert!(matches!(elsewhere, Err(RevocationError::WrongTrustDomain)));
}

#[test]
fn a_new_epoch_ends_the_old_keys_and_needs_a_snapshot() {
    let (publisher, revoked, _) = full();
    let mut replica = publisher.current_follower();
    let (heartbeat, snapshot) = (publisher.heartbeat(), publisher.snapshot());
    let (new_key, _) = RevocationKey::generate().unwrap();
    replica
        .trust(publisher.ca.delegate(&new_key, 2, START.plus(seconds(9_000))))
        .unwrap();
    for old in [&heartbeat, &snapshot] {
        refused(&mut replica, old, START, "of the epoch that ended");
    }
    assert!(replica.trust(publisher.delegation()).is_err(), "an epoch never falls");
    // The last good set still strikes.
    assert_eq!(revoked.check(&replica.view(), START), BY_SERIAL);
    // After a restore the ledger may be shorter: the sequence falls, the epoch does not.
    let mut restored = Publisher {
        key: new_key,
        epoch: 2,
        ca: publisher.ca,
        ..Publisher::new()
    };
    restored.revoke_rule(RuleTarget::Issuer(publisher::NATIVE), Some(START));
    assert!(replica.heartbeat(&restored.heartbeat(), START).is_err());
    assert!(replica.apply_delta(&restored.delta(2), START).is_err());
    assert!(
        replica
            .apply_snapshot(&restored.snapshot(), START)
            .unwrap()
            .added
            .everything
    );
    assert_eq!(
        revoked.check(&replica.view(), START),
        Verdict::Revoked { why: Why::Issuer }
    );
    assert_eq!(replica.heartbeat(&restored.heartbeat(), START).unwrap(), Beat::Current);
}

#[test]
fn a_publisher_cannot_sign_times_that_would_drop_the_living() {
    let publisher = Publisher::new();
    let terms = Terms {
        next_update: publisher.now,
        ..publisher.terms()
    };
    assert!(publisher.key.sign_snapshot(&publisher.set, &[], &terms).is_err());
}

#[test]
fn no_filter_is_stale_and_never_good() {
    let cert = Cert::new(1);
    let view = View::none();
    assert_eq!(cert.check(&view, START), Verdict::Stale);
    assert_eq!(view.age(START), None);
    for policy in [
        FreshnessPolicy::Strict,
        FreshnessPolicy::default(),
        FreshnessPolicy::Open,
    ] {
        assert_eq!(
            view.decide(&cert.query(), START, policy),
            Decision::Refuse(Verdict::Stale),
            "{policy:?}"
        );
    }
}

#[test]
fn replaying_an_old_heartbeat_makes_nothing_fresh() {
    let (mut publisher, _, good) = full();
    let mut replica = publisher.current_follower();
    let old = publisher.heartbeat();
    let now = START.plus(seconds(120));
    assert_eq!(replica.heartbeat(&old, now).unwrap(), Beat::Current);
    assert_eq!(good.check(&replica.view(), now), Verdict::Stale);
    publisher.now = now;
    assert_eq!(replica.heartbeat(&publisher.heartbeat(), now).unwrap(), Beat::Current);
    assert_eq!(good.check(&replica.view(), now), Verdict::Good);
    // And it takes nothing away.
    replica.heartbeat(&old, now).unwrap();
    assert_eq!(good.check(&replica.view(), now), Verdict::Good);
}

#[test]
fn a_clock_that_went_back_says_nothing_about_age() {
    let (publisher, _, good) = full();
    let view = publisher.current_follower().view();
    assert_eq!(good.check(&view, START.minus(seconds(60))), Verdict::Good);
    let back = START.minus(seconds(61));
    assert_eq!(good.check(&view, back), Verdict::Stale);
    let bounded = view.decide(&good.query(), back, FreshnessPolicy::default());
    assert_eq!(bounded, Decision::Refuse(Verdict::Stale));
}
