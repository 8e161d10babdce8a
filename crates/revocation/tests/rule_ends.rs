//! Rules end when nothing that they strike can live, and take no room twice.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod publisher;

use mintage_identity::{SpkiHash, UnixTime};
use mintage_revocation::{Beat, RevocationError, Rule, RuleTarget, limits::RULES_MAX};
use publisher::{NATIVE, Publisher, START, seconds};

/// As many as one revocation may name.
const PART: usize = 4_000;
/// A leaf's longest life, an hour, and the grace of a bucket.
const OVER: u64 = 25 * 3_600 + 601;

fn key_rule(number: usize) -> Rule {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    Rule {
        target: RuleTarget::Key(SpkiHash::new(key)),
        cut: None,
    }
}

/// A set that holds as many rules on keys as it may, all of them of [`START`].
fn full() -> Publisher {
    let mut publisher = Publisher::new();
    for part in 0..RULES_MAX / PART {
        publisher.revoke(Vec::new(), (part * PART..(part + 1) * PART).map(key_rule).collect());
    }
    assert_eq!(publisher.set.rule_count(), RULES_MAX);
    publisher
}

fn told(publisher: &Publisher) -> usize {
    publisher.current_follower().view().rule_count()
}

#[test]
fn a_rule_on_a_key_ends_a_leafs_life_after_the_last_record_that_named_it() {
    let mut publisher = Publisher::new();
    publisher.revoke(Vec::new(), vec![key_rule(1), key_rule(2)]);
    // A key that signs: its own certificate lives as long as the issuer is covered.
    let signing = RuleTarget::Key(SpkiHash::new(*NATIVE.as_bytes()));
    publisher.revoke_rule(signing.clone(), None);
    publisher.now = START.plus(seconds(3_600));
    publisher.revoke(Vec::new(), vec![key_rule(2)]);
    for (after, left) in [(OVER - 2, 3), (OVER, 2), (3_600 + OVER, 1)] {
        publisher.now = START.plus(seconds(after));
        assert_eq!(told(&publisher), left, "after {after} s");
        publisher.set.prune(publisher.now);
        assert_eq!(publisher.set.rule_count(), left, "after {after} s");
    }
    assert!(publisher.set.rule(&signing).is_some());
}

#[test]
fn what_is_held_takes_no_room_again() {
    let mut publisher = full();
    let (sequence, at) = (publisher.set.sequence(), publisher.now);
    let revocation = |rules: Vec<Rule>, at: UnixTime| mintage_revocation::Revocation {
        at,
        serials: Vec::new(),
        rules,
        reason: mintage_identity::RevocationReason::KeyCompromise,
    };
    let set = &mut publisher.set;
    set.apply_revocation(sequence + 1, &revocation(vec![key_rule(0), key_rule(PART)], at))
        .unwrap();
    let one_more = revocation(vec![key_rule(0), key_rule(RULES_MAX)], at);
    let refused = set.apply_revocation(sequence + 2, &one_more).unwrap_err();
    assert!(
        matches!(refused, RevocationError::TooMany { what: "rules", .. }),
        "{refused}"
    );
}

#[test]
fn a_follower_that_holds_rules_which_are_over_takes_the_snapshot_before_it_has_too_many() {
    let mut publisher = full();
    let mut follower = publisher.current_follower();
    publisher.now = START.plus(seconds(OVER));
    publisher.set.prune(publisher.now);
    publisher.revoke(Vec::new(), vec![key_rule(RULES_MAX)]);
    let from = follower.position().unwrap().sequence;
    let error = follower.apply_delta(&publisher.delta(from), publisher.now).unwrap_err();
    assert!(matches!(error, RevocationError::BrokenChain { .. }), "{error}");
    follower.apply_snapshot(&publisher.snapshot(), publisher.now).unwrap();
    assert_eq!(follower.view().rule_count(), 1);
    assert_eq!(
        follower.heartbeat(&publisher.heartbeat(), publisher.now).unwrap(),
        Beat::Current
    );
}
