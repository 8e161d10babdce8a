//! What becomes of identities, issuers and buckets over time: replacement, lifting, coverage, dropping, and followers that
//! change their publisher.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_identity::{IdPrefix, IssuerKeyId, RevocationReason, UnixTime};
use mintage_revocation::{
    Beat, IssuerCoverage, Revocation, RevocationError, RevocationKey, Rule, RuleTarget, SerialKind, Verdict, Why,
};
use publisher::{BY_SERIAL, Cert, NATIVE, Publisher, START, STRANGER, id, seconds, serial};

fn struck_by(why: Why) -> Verdict {
    Verdict::Revoked { why }
}

/// A certificate of `spiffe://dev.test/web` that starts at `not_before`.
fn issued_at(seed: u64, not_before: UnixTime) -> Cert {
    Cert {
        not_before,
        not_after: not_before.plus(seconds(600)),
        ..Cert::new(seed)
    }
}

#[test]
fn the_replacement_of_a_revoked_identity_works_at_once_and_the_old_certificate_never_again() {
    let mut publisher = Publisher::new();
    let mut replica = publisher.current_follower();
    let old = issued_at(1, START.minus(seconds(30)));
    let cut = START;
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/web")), Some(cut));
    publisher.bring_up(&mut replica);
    let replacement = issued_at(2, UnixTime::from_millis(cut.millis() + 1_000));
    let neighbour = Cert {
        id: id("spiffe://dev.test/db"),
        ..issued_at(3, START.minus(seconds(30)))
    };
    for later in [0, 5, 300, 599] {
        publisher.now = START.plus(seconds(later));
        replica.heartbeat(&publisher.heartbeat(), publisher.now).unwrap();
        assert_eq!(
            old.check(&replica.view(), publisher.now),
            struck_by(Why::Identity),
            "{later}"
        );
        assert_eq!(
            replacement.check(&replica.view(), publisher.now),
            Verdict::Good,
            "{later}"
        );
        assert_eq!(
            neighbour.check(&replica.view(), publisher.now),
            Verdict::Good,
            "{later}"
        );
    }
    // A later, weaker statement does not revive the old one.
    publisher.revoke_rule(
        RuleTarget::Identity(id("spiffe://dev.test/web")),
        Some(START.minus(seconds(300))),
    );
    publisher.bring_up(&mut replica);
    assert_eq!(old.check(&replica.view(), publisher.now), struck_by(Why::Identity));
    assert_eq!(
        old.check(&publisher.current_follower().view(), publisher.now),
        struck_by(Why::Identity)
    );
    // Nor does the end of the rule: by then the certificate is long out of what is covered.
    publisher.now = START.plus(seconds(86_400 + 3_600 + 601));
    replica.heartbeat(&publisher.heartbeat(), publisher.now).unwrap();
    assert_eq!(replica.view().rule_count(), 0);
    assert_eq!(old.check(&replica.view(), publisher.now), Verdict::NotCovered);
}

#[test]
fn a_disabled_identity_stays_dead_until_it_is_lifted_and_its_old_certificates_for_good() {
    let mut publisher = Publisher::new();
    let mut replica = publisher.current_follower();
    let target = RuleTarget::Identity(id("spiffe://dev.test/web"));
    publisher.revoke_rule(target.clone(), None);
    publisher.bring_up(&mut replica);
    let later = issued_at(1, START.plus(seconds(50)));
    assert_eq!(later.check(&replica.view(), START), struck_by(Why::Identity));
    // A cut on top of "everything" takes nothing back.
    publisher.revoke_rule(target.clone(), Some(START));
    publisher.bring_up(&mut replica);
    assert_eq!(later.check(&replica.view(), START), struck_by(Why::Identity));

    let sequence = publisher.set.sequence() + 1;
    publisher
        .set
        .lift(sequence, &[target], START.plus(seconds(40)))
        .unwrap();
    publisher.bring_up(&mut replica);
    let before = issued_at(2, START.plus(seconds(40)));
    for view in [replica.view(), publisher.current_follower().view()] {
        assert_eq!(before.check(&view, START), struck_by(Why::Identity));
        assert_eq!(later.check(&view, START), Verdict::Good);
    }
}

#[test]
fn rules_by_prefix_key_and_issuer_reach_the_follower() {
    let mut publisher = Publisher::new();
    let mut replica = publisher.current_follower();
    let cert = Cert {
        id: id("spiffe://dev.test/team/a/web"),
        ..Cert::new(1)
    };
    let prefix: IdPrefix = "spiffe://dev.test/team/*".parse().unwrap();
    let targets = [
        (RuleTarget::Prefix(prefix), Why::Prefix),
        (RuleTarget::Key(cert.spki), Why::Key),
        (RuleTarget::Issuer(NATIVE), Why::Issuer),
    ];
    for (target, why) in targets {
        publisher.revoke_rule(target.clone(), None);
        let from = replica.position().unwrap().sequence;
        let applied = replica.apply_delta(&publisher.delta(from), START).unwrap();
        assert!(applied.added.concerns_all());
        assert_eq!(applied.added.rules, [Rule { target, cut: None }]);
        assert_eq!(cert.check(&replica.view(), START), struck_by(why));
        assert_eq!(publisher.set.check(&cert.query()), struck_by(why));
    }
    assert_eq!(replica.view().rule_count(), 3);
}

#[test]
fn a_delta_names_the_connections_it_concerns() {
    let mut publisher = Publisher::new();
    let mut replica = publisher.current_follower();
    let (struck, other) = (Cert::new(1), Cert::new(2));
    let key = |cert: &Cert| replica.view().entry_key(&cert.issuer, &cert.serial).unwrap();
    let (struck_key, other_key) = (key(&struck), key(&other));
    publisher.revoke_serial(&struck);
    let applied = replica.apply_delta(&publisher.delta(2), START).unwrap();
    assert_eq!(applied.added.keys, [struck_key]);
    assert!(!applied.added.concerns_all());
    assert!(!applied.added.keys.contains(&other_key));
    assert_eq!(replica.view().entry_key(&STRANGER, &struck.serial), None);
}

#[test]
fn what_the_filter_does_not_speak_of_is_not_covered() {
    let mut publisher = Publisher::new();
    let stranger = Cert {
        issuer: STRANGER,
        ..Cert::new(1)
    };
    let mut replica = publisher.current_follower();
    assert_eq!(stranger.check(&replica.view(), START), Verdict::NotCovered);
    // Revoked before its issuer is covered: struck, its siblings are still not covered.
    publisher.revoke_serial(&stranger);
    publisher.bring_up(&mut replica);
    let sibling = Cert {
        serial: serial(2),
        ..stranger.clone()
    };
    assert_eq!(stranger.check(&replica.view(), START), BY_SERIAL);
    assert_eq!(sibling.check(&replica.view(), START), Verdict::NotCovered);
    assert!(!replica.view().covers(&STRANGER));
    let (sequence, until) = (publisher.set.sequence() + 1, Some(START.plus(seconds(7_000))));
    let coverage = IssuerCoverage {
        id: STRANGER,
        serials: SerialKind::Foreign,
        until,
    };
    publisher.set.cover_issuer(sequence, &coverage).unwrap();
    publisher.bring_up(&mut replica);
    assert_eq!(
        stranger.check(&replica.view(), START),
        BY_SERIAL,
        "the kind of serials is fixed when first seen"
    );
    assert_eq!(sibling.check(&replica.view(), START), Verdict::Good);
    // An issuer whose last certificate has ended is no longer covered.
    publisher.now = START.plus(seconds(7_000 + 601));
    let cert = Cert {
        not_after: publisher.now.plus(seconds(9)),
        ..sibling
    };
    replica.heartbeat(&publisher.heartbeat(), publisher.now).unwrap();
    assert_eq!(cert.check(&replica.view(), publisher.now), Verdict::NotCovered);
    assert_eq!(
        cert.check(&publisher.current_follower().view(), publisher.now),
        Verdict::NotCovered
    );
}

#[test]
fn a_certificate_older_than_the_horizon_is_not_covered() {
    let publisher = Publisher::new();
    let replica = publisher.current_follower();
    let ended = |ago| Cert {
        not_after: START.minus(seconds(ago)),
        ..Cert::new(1)
    };
    assert_eq!(ended(600).check(&replica.view(), START), Verdict::Good);
    assert_eq!(ended(601).check(&replica.view(), START), Verdict::NotCovered);
}

#[test]
fn a_bucket_is_dropped_only_when_all_in_it_are_dead() {
    for life in [61, 600, 7_199, 7_200, 86_400, 604_799, 604_800, 7_776_000] {
        let mut publisher = Publisher::new();
        let cert = Cert {
            not_after: START.plus(seconds(life)),
            ..Cert::new(life)
        };
        publisher.revoke_serial(&cert);
        let mut replica = publisher.current_follower();
        // To the end of its grace the certificate is struck, whoever pruned meanwhile.
        for at in [0, life / 2, life - 1, life, life + 300, life + 600] {
            publisher.now = START.plus(seconds(at));
            publisher.set.prune(publisher.now);
            replica.heartbeat(&publisher.heartbeat(), publisher.now).unwrap();
            assert_eq!(cert.check(&replica.view(), publisher.now), BY_SERIAL, "{life} at {at}");
            assert_eq!(
                cert.check(&publisher.current_follower().view(), publisher.now),
                BY_SERIAL,
                "{life} at {at}"
            );
            assert_eq!(publisher.set.serial_count(), 1, "{life} at {at}");
        }
        // A week after the end even the widest bucket is gone, everywhere.
        publisher.now = START.plus(seconds(life + 8 * 86_400));
        publisher.set.prune(publisher.now);
        replica.heartbeat(&publisher.heartbeat(), publisher.now).unwrap();
        assert_eq!(
            cert.check(&replica.view(), publisher.now),
            Verdict::NotCovered,
            "{life}"
        );
        assert_eq!(replica.view().serial_count(), 0, "{life}");
        assert_eq!(publisher.set.serial_count(), 0, "{life}");
    }
}

#[test]
fn pruning_changes_no_hash_and_no_delta() {
    let mut pruned = Publisher::new();
    let short = Cert {
        not_after: START.plus(seconds(60)),
        ..Cert::new(1)
    };
    pruned.revoke_serial(&short);
    pruned.now = START.plus(seconds(4_000));
    let long = Cert {
        not_after: START.plus(seconds(9_000)),
        ..Cert::new(2)
    };
    let whole = pruned.set.clone();
    pruned.set.prune(pruned.now);
    assert_eq!((whole.serial_count(), pruned.set.serial_count()), (1, 0));
    let mut other = Publisher {
        set: whole,
        ..Publisher::new()
    };
    (other.now, other.key) = (pruned.now, RevocationKey::generate().unwrap().0);
    pruned.revoke_serial(&long);
    other.revoke_serial(&long);
    assert_eq!(pruned.set.hash(), other.set.hash());
    // Only key and signature differ; the body is the same octets.
    assert_eq!(pruned.delta(2)[320..], other.delta(2)[320..]);
    assert_eq!(pruned.snapshot()[320..], other.snapshot()[320..]);
}

#[test]
fn a_follower_goes_from_one_publisher_to_another_in_mid_chain() {
    let mut one = Publisher::new();
    let mut two = Publisher {
        ca: publisher::CaKey::generate(),
        ..Publisher::new()
    };
    let mut replica = one.current_follower();
    replica.trust(two.delegation()).unwrap();
    for round in 0..6 {
        let cert = Cert::new(round);
        one.revoke_serial(&cert);
        two.revoke_serial(&cert);
        assert_eq!(one.set.hash(), two.set.hash());
        let publisher = if round % 2 == 0 { &one } else { &two };
        publisher.bring_up(&mut replica);
        assert_eq!(replica.heartbeat(&publisher.heartbeat(), START).unwrap(), Beat::Current);
        assert_eq!(cert.check(&replica.view(), START), BY_SERIAL);
    }
    // A publisher that is behind neither refreshes nor rolls back.
    let lagging = two.heartbeat();
    one.revoke_serial(&Cert::new(9));
    one.bring_up(&mut replica);
    assert_eq!(replica.heartbeat(&lagging, START).unwrap(), Beat::PublisherBehind);
}

#[test]
fn the_set_depends_on_the_records_alone() {
    let revocation = |serials: Vec<u64>| Revocation {
        at: START,
        serials: serials.into_iter().map(|seed| Cert::new(seed).revoked()).collect(),
        rules: Vec::new(),
        reason: RevocationReason::Superseded,
    };
    let mut one = Publisher::new().set;
    let mut two = Publisher::new().set;
    one.apply_revocation(9, &revocation(vec![1, 2, 3])).unwrap();
    two.apply_revocation(9, &revocation(vec![3, 1, 2, 1])).unwrap();
    assert_eq!(one.hash(), two.hash());
    assert_eq!(one.hash_at(9), Some(one.hash()));
    two.apply_revocation(10, &revocation(vec![4])).unwrap();
    assert_ne!(one.hash(), two.hash());
    assert_eq!(two.hash_at(9), Some(one.hash()));
    for stale in [0, 9, 10] {
        assert!(matches!(
            two.apply_revocation(stale, &revocation(vec![5])),
            Err(RevocationError::OutOfOrder { .. })
        ));
    }
    // Revoked twice: the first record counts.
    two.apply_revocation(
        11,
        &Revocation {
            reason: RevocationReason::KeyCompromise,
            ..revocation(vec![4])
        },
    )
    .unwrap();
    let entry = two.revoked(&NATIVE, &serial(4)).unwrap();
    assert_eq!((entry.sequence, entry.reason), (10, RevocationReason::Superseded));
    assert_eq!(two.serials_of(NATIVE).count(), 4);
    assert_eq!(two.serials_of(IssuerKeyId::new([9; 32])).count(), 0);
}

#[test]
fn an_old_delta_stays_the_same_after_later_records() {
    let mut publisher = Publisher::new();
    publisher.revoke_serial(&Cert::new(1));
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/web")), Some(START));
    let to = publisher.set.sequence();
    let sign = |publisher: &Publisher| {
        publisher
            .key
            .sign_delta(&publisher.set, 2, to, &[], &publisher.terms())
            .unwrap()
    };
    let before = sign(&publisher);
    let until = Some(START.plus(seconds(70_000)));
    let coverage = IssuerCoverage {
        id: NATIVE,
        serials: SerialKind::Native,
        until,
    };
    publisher.set.cover_issuer(to + 1, &coverage).unwrap();
    publisher.revoke_rule(RuleTarget::Identity(id("spiffe://dev.test/web")), None);
    publisher.revoke_serial(&Cert::new(2));
    assert_eq!(sign(&publisher), before);
    assert!(
        publisher
            .key
            .sign_delta(&publisher.set, 3, to, &[], &publisher.terms())
            .is_err(),
        "no such base"
    );
    assert!(
        publisher
            .key
            .sign_delta(&publisher.set, to, to, &[], &publisher.terms())
            .is_err(),
        "empty"
    );
}

#[test]
fn a_key_survives_its_pkcs8_form_and_its_debug_form_tells_nothing() {
    let (key, pkcs8) = RevocationKey::generate().unwrap();
    let again = RevocationKey::from_pkcs8(&pkcs8).unwrap();
    assert_eq!(key.id(), again.id());
    assert!(RevocationKey::from_pkcs8(&pkcs8[..pkcs8.len() - 1]).is_err());
    assert_eq!(format!("{key:?}"), format!("RevocationKey({}, ..)", key.id()));
}

#[test]
fn serials_of_an_issuer_that_is_not_covered_are_found_by_who_lists_all() {
    let mut publisher = Publisher::new();
    let stranger = Cert {
        issuer: publisher::STRANGER,
        ..Cert::new(1)
    };
    publisher.revoke_serial(&stranger);
    let covered: Vec<_> = publisher.set.covered_issuers().collect();
    assert!(!covered.contains(&stranger.issuer));
    let listed = publisher
        .set
        .known_issuers()
        .flat_map(|issuer| publisher.set.serials_of(issuer));
    assert_eq!(listed.map(|(serial, _)| serial).collect::<Vec<_>>(), [stranger.serial]);
}
